// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The parameters of VFIO's own container, type1.

use super::{
    host::{Host, count, size},
    nodes::{Nodes, Provider},
    row::Row,
};

const PARAMETERS: &str = "/sys/module/vfio_iommu_type1/parameters";

/// What a kernel that nobody has told otherwise allows (`U16_MAX`).
const USUAL_ENTRIES: u64 = 65_535;

/// The largest chunk that is planned without need, and so the least number of entries that pinning costs.
const CHUNK: u64 = 256 << 20;

pub(super) fn rows(host: &Host<'_>, nodes: &Nodes, bytes: Option<u64>) -> Vec<Row> {
    vec![entries(host, nodes, bytes), huge_pages(host)]
}

fn entries(host: &Host<'_>, nodes: &Nodes, bytes: Option<u64>) -> Row {
    let id = "dma-entry-limit";
    let needed = match bytes {
        Some(bytes) => format!(
            "type1 spends one entry for each map: {} in maps of {} for {}",
            bytes.div_ceil(CHUNK),
            size(CHUNK),
            size(bytes)
        ),
        None => "type1 spends one entry for each map".to_owned(),
    };
    if nodes.provider() == Some(Provider::Iommufd) {
        return Row::absent(id, "no limit: iommufd has none", needed);
    }
    let path = format!("{PARAMETERS}/dma_entry_limit");
    let limit = match host.number(&path) {
        Ok(Some(limit)) => limit,
        Ok(None) => return Row::absent(id, "vfio_iommu_type1 is not loaded", needed),
        Err(why) => return Row::unreadable(id, &why, needed),
    };
    let found = count(limit, "map");
    if bytes.unwrap_or_default().div_ceil(CHUNK) <= limit && limit != 0 {
        return Row::ok(id, format!("{found} for each container"), needed);
    }
    let more = bytes.unwrap_or_default().div_ceil(CHUNK).max(USUAL_ENTRIES);
    Row::warn(
        id,
        format!("only {found} for each container"),
        needed,
        format!("`echo {more} > {path}`, before the container is opened"),
    )
}

fn huge_pages(host: &Host<'_>) -> Row {
    let id = "type1-huge-pages";
    let needed = "the IOMMU maps 2 MiB and 1 GiB at once, and the guest keeps its speed";
    let path = format!("{PARAMETERS}/disable_hugepages");
    match host.flag(&path) {
        Err(why) => Row::unreadable(id, &why, needed),
        Ok(None) => Row::absent(id, "vfio_iommu_type1 is not loaded", needed),
        Ok(Some(false)) => Row::ok(id, "used by the IOMMU", needed),
        Ok(Some(true)) => Row::warn(
            id,
            "not used: disable_hugepages is set",
            needed,
            format!("`echo N > {path}`"),
        ),
    }
}
