// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The boots that tests are spread over: same kernel, same programs, and what cannot be changed while it runs.

/// A kind of boot. A test says by its name which one it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// With the IOMMU and cgroup v2; for every test that asks for nothing else.
    Usual,
    /// The kernel leaves the IOMMU alone.
    WithoutIommu,
    /// The hierarchies of cgroup v1 are mounted instead of the one of v2.
    CgroupV1,
}

impl Boot {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Usual, Self::WithoutIommu, Self::CgroupV1];

    /// Because of the dot the kernel takes it for a parameter of a module that it does not have, and passes over it.
    const OPTION: &str = "parapin.boot=";

    /// Where a test of this name runs.
    #[must_use]
    pub fn of_test(name: &str) -> Self {
        let mut boots = Self::ALL.into_iter();
        let named = boots.find(|boot| boot.mark().is_some_and(|mark| name.contains(mark)));
        named.unwrap_or(Self::Usual)
    }

    /// The boot that a kernel with these options, as in `/proc/cmdline`, belongs to.
    #[must_use]
    pub fn of_options(options: &str) -> Option<Self> {
        let mut words = options.split_whitespace();
        let word = words.find_map(|option| option.strip_prefix(Self::OPTION))?;
        Self::ALL.into_iter().find(|boot| boot.word() == word)
    }

    /// What the kernel is booted with.
    #[must_use]
    pub fn options(self) -> String {
        let iommu = if self.has_iommu() { "on" } else { "off" };
        format!("intel_iommu={iommu} {}{}", Self::OPTION, self.word())
    }

    /// Whether the kernel uses the IOMMU.
    #[must_use]
    pub fn has_iommu(self) -> bool {
        self != Self::WithoutIommu
    }

    /// What a test has in its name that needs this boot.
    fn mark(self) -> Option<&'static str> {
        match self {
            Self::Usual => None,
            Self::WithoutIommu => Some("without_iommu"),
            Self::CgroupV1 => Some("cgroup_v1"),
        }
    }

    fn word(self) -> &'static str {
        self.mark().unwrap_or("usual")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_boot_a_test_belongs_to() {
        assert_eq!(Boot::of_test("vm_pins::memfd"), Boot::Usual);
        assert_eq!(
            Boot::of_test("vm_faults::mock_domain_without_iommu"),
            Boot::WithoutIommu
        );
        assert_eq!(
            Boot::of_test("vm_groups::a_quota_binds_cgroup_v1"),
            Boot::CgroupV1
        );
    }

    #[test]
    fn the_guest_finds_its_boot_among_the_kernels_options() {
        for boot in Boot::ALL {
            let options = format!("console=ttyS0 {} quiet\n", boot.options());
            assert_eq!(Boot::of_options(&options), Some(boot));
        }
        assert_eq!(Boot::of_options("intel_iommu=on"), None);
        assert_eq!(Boot::of_options("parapin.boot=other"), None);
    }

    #[test]
    fn one_boot_alone_is_without_the_iommu() {
        let without = Boot::ALL
            .map(|boot| boot.options())
            .map(|options| options.contains("intel_iommu=off"));
        assert_eq!(without, [false, true, false]);
    }
}
