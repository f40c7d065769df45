// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The address of a PCI function.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// The address of a PCI function, such as `0000:01:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// Text that is not the address of a PCI function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "not the address of a PCI device; write it as `lspci -D` does: 0000:01:00.0, or 01:00.0 in domain 0"
)]
pub struct PciAddressError;

impl FromStr for PciAddress {
    type Err = PciAddressError;

    /// Reads `DOMAIN:BUS:DEVICE.FUNCTION`, all hexadecimal; without a domain it is 0.
    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        parse(text).ok_or(PciAddressError)
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    // Volume management devices have domains of more than four digits.
    let address = PciAddress {
        domain: hexadecimal(domain, 4..=8)?,
        bus: u8::try_from(hexadecimal(bus, 2..=2)?).ok()?,
        device: u8::try_from(hexadecimal(device, 2..=2)?).ok()?,
        function: u8::try_from(hexadecimal(function, 1..=1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (plain && digits.contains(&text.len()))
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

impl fmt::Display for PciAddress {
    /// As the directories of sysfs are named.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("0000:C1:1F.7", "0000:c1:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
            ("ffffffff:ff:1f.7", "ffffffff:ff:1f.7"),
        ];
        for (text, shown) in cases {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            "01:00",
            "1:0.0",
            "01:00.8",
            "01:20.0",
            "0000:01:00.0 ",
            "0000:01:00.00",
            "000:01:00.0",
            "0:0000:01:00.0",
            "fffffffff:01:00.0",
            "+001:01:00.0",
            "../:01:00.0",
            "zz:00.0",
            "0000:01:00.0/..",
        ] {
            assert_eq!(text.parse::<PciAddress>(), Err(PciAddressError), "{text}");
        }
    }
}
