// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the kernel's interface that no crate has (include/uapi/linux/vfio.h).
//!
//! They, and the structures of `vfio-bindings` and `iommufd-bindings` that are used here, are compared with the kernel's
//! headers by the tests below.

/// `VFIO_TYPE`.
pub(crate) const VFIO_TYPE: u8 = b';';

/// `VFIO_BASE`: the number of the first request.
const VFIO_BASE: u32 = 100;

/// `VFIO_IOMMU_GET_INFO`, `_IO(VFIO_TYPE, VFIO_BASE + 12)`.
pub(crate) const VFIO_IOMMU_GET_INFO: u32 = VFIO_BASE + 12;
/// `VFIO_IOMMU_MAP_DMA`, `_IO(VFIO_TYPE, VFIO_BASE + 13)`.
pub(crate) const VFIO_IOMMU_MAP_DMA: u32 = VFIO_BASE + 13;
/// `VFIO_IOMMU_UNMAP_DMA`, `_IO(VFIO_TYPE, VFIO_BASE + 14)`.
pub(crate) const VFIO_IOMMU_UNMAP_DMA: u32 = VFIO_BASE + 14;

#[cfg(test)]
mod tests {
    //! A C program that is compiled against the kernel's headers prints the same numbers as these types have.

    use std::{fs, path::Path};

    use fakes::header::{self, Numbers};
    use iommufd_bindings::iommufd::{
        IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_CMD_IOAS_MAP, IOMMUFD_CMD_IOAS_MAP_FILE,
        IOMMUFD_CMD_IOAS_UNMAP, IOMMUFD_CMD_OPTION, IOMMUFD_TYPE, iommu_ioas_iova_ranges,
        iommu_ioas_map, iommu_ioas_map_file, iommu_ioas_unmap, iommu_iova_range, iommu_option,
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE, iommufd_option_IOMMU_OPTION_RLIMIT_MODE,
        iommufd_option_ops_IOMMU_OPTION_OP_GET,
    };
    use nix::request_code_none;
    use vfio_bindings::bindings::vfio::{
        VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, vfio_info_cap_header,
        vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap, vfio_iommu_type1_info,
    };

    use super::*;

    /// The size of a structure, and where its fields are and how large.
    macro_rules! layout {
        ($numbers:ident, $structure:ident: $($field:ident),+) => {
            let mut put = |name: &str, value: usize| {
                $numbers.insert(format!("{}{name}", stringify!($structure)), value as u64);
            };
            put("", size_of::<$structure>());
            $(
                put(concat!(".", stringify!($field)), std::mem::offset_of!($structure, $field));
                put(concat!(".", stringify!($field), ".size"), size_of_val(&$structure::default().$field));
            )+
        };
    }

    macro_rules! constants {
        ($numbers:ident, $($name:literal = $value:expr),+ $(,)?) => {
            $($numbers.insert($name.to_owned(), u64::from($value));)+
        };
    }

    fn ours() -> Numbers {
        let mut numbers = Numbers::new();
        layout!(numbers, vfio_iommu_type1_info: argsz, flags, iova_pgsizes, cap_offset);
        layout!(numbers, vfio_info_cap_header: id, version, next);
        layout!(numbers, vfio_iommu_type1_dma_map: argsz, flags, vaddr, iova, size);
        layout!(numbers, vfio_iommu_type1_dma_unmap: argsz, flags, iova, size);
        layout!(numbers, iommu_iova_range: start, last);
        layout!(numbers, iommu_ioas_iova_ranges: size, ioas_id, num_iovas, allowed_iovas, out_iova_alignment);
        layout!(numbers, iommu_ioas_map: size, flags, ioas_id, user_va, length, iova);
        layout!(numbers, iommu_ioas_unmap: size, ioas_id, iova, length);
        layout!(numbers, iommu_option: size, option_id, op, object_id, val64);
        constants!(
            numbers,
            "VFIO_IOMMU_GET_INFO" = request_code_none!(VFIO_TYPE, VFIO_IOMMU_GET_INFO),
            "VFIO_IOMMU_MAP_DMA" = request_code_none!(VFIO_TYPE, VFIO_IOMMU_MAP_DMA),
            "VFIO_IOMMU_UNMAP_DMA" = request_code_none!(VFIO_TYPE, VFIO_IOMMU_UNMAP_DMA),
            "VFIO_DMA_MAP_FLAG_READ" = VFIO_DMA_MAP_FLAG_READ,
            "VFIO_DMA_MAP_FLAG_WRITE" = VFIO_DMA_MAP_FLAG_WRITE,
            "IOMMU_IOAS_IOVA_RANGES" =
                request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES),
            "IOMMU_IOAS_MAP" = request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP),
            "IOMMU_IOAS_UNMAP" = request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP),
            "IOMMU_OPTION" = request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION),
            "IOMMU_IOAS_MAP_FIXED_IOVA" = iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
            "IOMMU_IOAS_MAP_READABLE" = iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
            "IOMMU_IOAS_MAP_WRITEABLE" = iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
            "IOMMU_OPTION_RLIMIT_MODE" = iommufd_option_IOMMU_OPTION_RLIMIT_MODE,
            "IOMMU_OPTION_OP_GET" = iommufd_option_ops_IOMMU_OPTION_OP_GET,
        );
        numbers
    }

    /// Numbers that only newer headers (Linux 6.13) have.
    fn ours_newer() -> Numbers {
        let mut numbers = Numbers::new();
        layout!(numbers, iommu_ioas_map_file: size, flags, ioas_id, fd, start, length, iova);
        constants!(
            numbers,
            "IOMMU_IOAS_MAP_FILE" = request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE),
        );
        numbers
    }

    /// What a name of ours is in C.
    fn in_c(name: &str) -> String {
        match *name.split('.').collect::<Vec<_>>() {
            [constant] if constant.starts_with(|c: char| c.is_ascii_uppercase()) => {
                constant.to_owned()
            }
            [structure] => format!("sizeof(struct {structure})"),
            [structure, field] => format!("offsetof(struct {structure}, {field})"),
            [structure, field, _] => format!("sizeof(((struct {structure} *)0)->{field})"),
            _ => panic!("{name}"),
        }
    }

    /// What C says of the names of `ours`.
    fn theirs(headers: &Path, ours: &Numbers) -> Numbers {
        let expressions = ours.keys().map(|name| (name.clone(), in_c(name)));
        header::values(headers, &["linux/vfio.h", "linux/iommufd.h"], expressions).unwrap()
    }

    #[test]
    fn structures_and_numbers_are_those_of_the_kernels_headers() {
        let Some(headers) = header::directory_of("linux/iommufd.h") else {
            println!(
                "skipped: no linux/iommufd.h; PARAPIN_KERNEL_HEADERS=$(cargo xtask vm headers) names headers that \
                 have it"
            );
            return;
        };
        let ours = ours();
        assert_eq!(ours, theirs(&headers, &ours));
        let text = fs::read_to_string(headers.join("linux/iommufd.h")).unwrap();
        if text.contains("IOMMU_IOAS_MAP_FILE ") {
            let newer = ours_newer();
            assert_eq!(newer, theirs(&headers, &newer));
        }
    }

    #[test]
    fn requests_have_the_numbers_that_filters_are_told() {
        let ours = ours();
        let known = [
            ("VFIO_IOMMU_GET_INFO", 0x3b70),
            ("VFIO_IOMMU_MAP_DMA", 0x3b71),
            ("VFIO_IOMMU_UNMAP_DMA", 0x3b72),
            ("IOMMU_IOAS_IOVA_RANGES", 0x3b84),
            ("IOMMU_IOAS_MAP", 0x3b85),
            ("IOMMU_IOAS_UNMAP", 0x3b86),
            ("IOMMU_OPTION", 0x3b87),
        ];
        for (name, number) in known {
            assert_eq!(ours[name], number, "{name}");
        }
        assert_eq!(ours_newer()["IOMMU_IOAS_MAP_FILE"], 0x3b8f);
    }
}
