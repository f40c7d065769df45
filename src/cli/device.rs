// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Opening a device the way a VMM does, with `vfio-ioctls`, so that memory can be mapped for it.
//!
//! ```text
//!  type1    /dev/vfio/vfio + /dev/vfio/GROUP ──► VfioContainer ──► Type1
//!  iommufd  /dev/iommu + /dev/vfio/devices/vfioN, attached ──► VfioIommufd ──► Iommufd
//! ```

use std::{fmt, path::PathBuf, sync::Arc};

use parapin::{ContainerFd, IommuFd, Iommufd, PinErrorKind, Type1};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd};

use super::{exit::Exit, resolve::Refused};

/// The container of the device's group, attached; the device keeps it so.
pub(crate) fn open_type1(address: &str) -> Result<(Type1<ContainerFd>, VfioDevice), Refused> {
    let refused = |error: &dyn fmt::Display| refused(address, "/dev/vfio/vfio", error);
    let container = Arc::new(VfioContainer::new(None).map_err(|error| refused(&error))?);
    let ops = Arc::clone(&container) as _;
    let device = VfioDevice::new(&sysfs(address), ops, true).map_err(|error| refused(&error))?;
    let target = Type1::of_container(container).map_err(|fault| faulty(&fault))?;
    Ok((target, device))
}

/// A new IOAS with the device attached, for as long as the device is kept.
pub(crate) fn open_iommufd(address: &str) -> Result<(Iommufd<IommuFd>, VfioDevice), Refused> {
    let refused = |error: &dyn fmt::Display| refused(address, "/dev/iommu", error);
    let iommufd = iommufd_ioctls::IommuFd::new().map_err(|error| refused(&error))?;
    let iommufd = VfioIommufd::new(Arc::new(iommufd), None, None);
    let iommufd = Arc::new(iommufd.map_err(|error| refused(&error))?);
    let ops = Arc::clone(&iommufd) as _;
    let device = VfioDevice::new(&sysfs(address), ops, true).map_err(|error| refused(&error))?;
    let target = Iommufd::of_vfio_iommufd(iommufd).map_err(|fault| faulty(&fault))?;
    Ok((target, device))
}

fn sysfs(address: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address)
}

fn refused(address: &str, through: &str, error: &dyn fmt::Display) -> Refused {
    Refused {
        exit: Exit::Failed,
        kind: PinErrorKind::NotAttached,
        message: format!("device {address} cannot be opened through {through}: {error}"),
        remedy: Some(format!(
            "parapin check --device {address} tells what is missing"
        )),
    }
}

fn faulty(fault: &vfio::PinFault) -> Refused {
    Refused {
        exit: Exit::Failed,
        kind: fault.kind.into(),
        message: fault.to_string(),
        remedy: Some(fault.remedy.clone().into_owned()),
    }
}
