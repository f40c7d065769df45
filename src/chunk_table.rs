// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`ChunkTable`]: where the borders of pinned chunks are, for everything that later has to respect them.

use thiserror::Error;
use vfio::{Iova, Placed};

/// The chunks of a pin call, in IOVA order.
///
/// In a type1 container each chunk is a mapping of its own: a partial unmap, a dirty bitmap (VFIO_IOMMU_DIRTY_PAGES)
/// and an address update (VFIO_DMA_MAP_FLAG_VADDR) must not cut one in two, the last one has to name exactly one. In
/// an IOAS only unmapping must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable(Box<[Placed]>);

impl ChunkTable {
    pub(crate) fn new(chunks: impl Iterator<Item = Placed>) -> Self {
        let mut chunks: Vec<Placed> = chunks.collect();
        chunks.sort_by_key(|chunk| chunk.iova);
        Self(chunks.into())
    }

    /// All chunks, lowest IOVA first.
    pub fn iter(&self) -> std::slice::Iter<'_, Placed> {
        self.0.iter()
    }

    /// The chunk that holds `iova`.
    #[must_use]
    pub fn at(&self, iova: Iova) -> Option<&Placed> {
        let index = self.0.partition_point(|chunk| chunk.iova <= iova);
        let chunk = self.0[..index].last()?;
        (iova.0 - chunk.iova.0 < chunk.size).then_some(chunk)
    }

    /// The chunks that lie in the `size` bytes from `iova` on; none where nothing is pinned there.
    ///
    /// # Errors
    /// [`CutChunk`] where the range begins or ends inside of a chunk.
    pub fn covered(&self, iova: Iova, size: u64) -> Result<&[Placed], CutChunk> {
        let end = Iova(iova.0.saturating_add(size));
        for border in [iova, end] {
            if let Some(chunk) = self.at(border).filter(|chunk| chunk.iova != border) {
                return Err(CutChunk {
                    border,
                    iova: chunk.iova,
                    size: chunk.size,
                });
            }
        }
        let below = |iova: Iova| self.0.partition_point(|chunk| chunk.iova < iova);
        Ok(&self.0[below(iova)..below(end)])
    }
}

impl<'a> IntoIterator for &'a ChunkTable {
    type Item = &'a Placed;
    type IntoIter = std::slice::Iter<'a, Placed>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A range that would cut a chunk in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{border} lies inside of the chunk at {iova} of {size:#x} bytes, which can only be taken back as a whole"
)]
pub struct CutChunk {
    /// The end of the range that lies inside.
    pub border: Iova,
    /// Start of the chunk.
    pub iova: Iova,
    /// Its length in bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use vfio::Hva;

    use super::*;

    fn table(chunks: &[(u64, u64)]) -> ChunkTable {
        ChunkTable::new(chunks.iter().map(|&(iova, size)| Placed {
            region: 0,
            iova: Iova(iova),
            hva: Hva(iova),
            offset: iova,
            size,
        }))
    }

    fn sizes(chunks: &[Placed]) -> Vec<u64> {
        chunks.iter().map(|chunk| chunk.size).collect()
    }

    #[test]
    fn the_chunk_at_an_address_is_found() {
        let table = table(&[(0x4000, 0x2000), (0, 0x1000), (0x1000, 0x1000)]);
        let at = |iova| table.at(Iova(iova)).map(|chunk| chunk.iova.0);
        assert_eq!(at(0), Some(0));
        assert_eq!(at(0xfff), Some(0));
        assert_eq!(at(0x1000), Some(0x1000));
        assert_eq!(at(0x2000), None, "a hole");
        assert_eq!(at(0x5fff), Some(0x4000));
        assert_eq!(at(0x6000), None);
        assert_eq!(at(u64::MAX), None);
    }

    #[test]
    fn whole_chunks_are_covered_and_cuts_are_named() {
        let table = table(&[(0, 0x1000), (0x1000, 0x3000), (0x8000, 0x1000)]);
        let covered = |iova, size| table.covered(Iova(iova), size).map(sizes);
        assert_eq!(covered(0, 0x4000), Ok(vec![0x1000, 0x3000]));
        assert_eq!(covered(0x1000, 0x3000), Ok(vec![0x3000]));
        assert_eq!(covered(0, u64::MAX), Ok(vec![0x1000, 0x3000, 0x1000]));
        assert_eq!(covered(0x4000, 0x4000), Ok(vec![]));
        assert_eq!(covered(0x1000, 0), Ok(vec![]));
        let cut = covered(0, 0x2000).unwrap_err();
        assert_eq!(
            cut.to_string(),
            "0x2000 lies inside of the chunk at 0x1000 of 0x3000 bytes, which can only be taken back as a whole"
        );
        assert!(covered(0x2000, 0x8000).is_err());
    }
}
