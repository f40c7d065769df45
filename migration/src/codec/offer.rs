// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`CodecOffer`]: what one end can do with pages, and how fast it measured itself; [`agree`]: what both make of it.
//!
//! ```text
//!  sender:   measure ─► CodecOffer ─┐            the least of: what the sender compresses, what the link carries times the
//!                                   ├─ agree ──► ratio, what the receiver restores; the format with the most wins
//!  receiver: measure ─► CodecOffer ─┘            ─► Agreement ─► to the receiver, which checks that it can do that
//! ```

use thiserror::Error;

use super::{PageFormat, encoder::LARGEST_FOR_IAA};

/// How fast one thread of one end is with one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatSpeed {
    /// The format.
    pub format: PageFormat,
    /// Bytes of pages that are compressed in a second.
    pub encode: u64,
    /// Bytes of pages that are restored in a second.
    pub decode: u64,
    /// Bytes of pages for each thousand bytes that travel.
    pub ratio_permille: u32,
    /// Whether an IAA restores them, which cannot read all streams of the format.
    pub iaa_decodes: bool,
}

/// What one end can do with pages. Raw pages everybody can.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodecOffer {
    speeds: Vec<FormatSpeed>,
}

/// What is between both ends, and what travels there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Bytes that it carries in a second, all channels together; none if that is not known, and then it is not what limits.
    pub bytes_per_second: Option<u64>,
    /// Channels, each with a thread at both ends.
    pub channels: u32,
    /// Bytes of a page.
    pub page_size: u64,
}

/// In which format pages travel: what the sender decides by both offers, and the receiver checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agreement {
    /// The format.
    pub format: PageFormat,
    /// Whether the sender's software makes only what an IAA can decode.
    pub safe_for_iaa: bool,
    /// Bytes of pages that should get through in a second; none if nothing is known to limit them.
    pub expected: Option<u64>,
}

impl Agreement {
    const VERSION: u8 = 1;
    const SAFE_FOR_IAA: u8 = 1;

    /// For the receiver.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 4] {
        let flags = u8::from(self.safe_for_iaa) * Self::SAFE_FOR_IAA;
        [Self::VERSION, self.format.code(), flags, 0]
    }

    /// What the sender decided, if the receiver can do that.
    ///
    /// # Errors
    ///
    /// If it is of another version, or names a format that was not offered.
    pub fn from_bytes(bytes: [u8; 4], offered: &CodecOffer) -> Result<Self, OfferError> {
        let [version, code, flags, _] = bytes;
        if version != Self::VERSION {
            return Err(OfferError::Version { version });
        }
        let format = PageFormat::of_code(code);
        let can =
            |format: &PageFormat| *format == PageFormat::Raw || offered.speed(*format).is_some();
        Ok(Self {
            format: format.filter(can).ok_or(OfferError::Format { code })?,
            safe_for_iaa: flags & Self::SAFE_FOR_IAA != 0,
            expected: None,
        })
    }
}

impl CodecOffer {
    /// Most formats of an offer. What the other end has beyond is not looked at.
    pub const MOST: usize = 16;
    const VERSION: u8 = 1;
    /// Version, count, reserved.
    const HEAD: usize = 4;
    /// Format, flags, reserved, two speeds in KiB a second, the ratio.
    const ENTRY: usize = 16;
    const IAA_DECODES: u8 = 1;

    /// Of these speeds, in whole KiB a second, as they travel; of several for one format the first, and
    /// none for raw.
    #[must_use]
    pub fn new(speeds: impl IntoIterator<Item = FormatSpeed>) -> Self {
        let mut this = Self::default();
        for speed in speeds {
            let is_known = this.speed(speed.format).is_some();
            if speed.format != PageFormat::Raw && !is_known && this.speeds.len() < Self::MOST {
                this.speeds.push(FormatSpeed {
                    encode: Self::whole(speed.encode),
                    decode: Self::whole(speed.decode),
                    ..speed
                });
            }
        }
        this
    }

    /// As much of a speed as travels.
    fn whole(bytes: u64) -> u64 {
        (bytes >> 10).min(u64::from(u32::MAX)) << 10
    }

    /// What is offered beside raw pages.
    #[must_use]
    pub fn speeds(&self) -> &[FormatSpeed] {
        &self.speeds
    }

    /// How fast it is with a format; none if it cannot, or it is raw.
    #[must_use]
    pub fn speed(&self, format: PageFormat) -> Option<&FormatSpeed> {
        self.speeds.iter().find(|speed| speed.format == format)
    }

    /// For the other end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let kib = |bytes: u64| u32::try_from(bytes >> 10).unwrap_or(u32::MAX).to_le_bytes();
        let count = u8::try_from(self.speeds.len()).unwrap_or(u8::MAX);
        let mut bytes = vec![Self::VERSION, count, 0, 0];
        for speed in &self.speeds {
            let flags = u8::from(speed.iaa_decodes) * Self::IAA_DECODES;
            bytes.extend([speed.format.code(), flags, 0, 0]);
            bytes.extend(kib(speed.encode));
            bytes.extend(kib(speed.decode));
            bytes.extend(speed.ratio_permille.to_le_bytes());
        }
        bytes
    }

    /// What the other end offers. Formats that are not known here are left out.
    ///
    /// # Errors
    ///
    /// If it is of another version, or not as long as it says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OfferError> {
        let [version, count, ..] = *bytes else {
            return Err(OfferError::Length { bytes: bytes.len() });
        };
        if version != Self::VERSION {
            return Err(OfferError::Version { version });
        }
        if bytes.len() != Self::HEAD + usize::from(count) * Self::ENTRY {
            return Err(OfferError::Length { bytes: bytes.len() });
        }
        let entries = bytes[Self::HEAD..].chunks_exact(Self::ENTRY);
        Ok(Self::new(entries.filter_map(|entry| {
            let word = |at: usize| {
                u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
            };
            Some(FormatSpeed {
                format: PageFormat::of_code(entry[0])?,
                encode: u64::from(word(4)) << 10,
                decode: u64::from(word(8)) << 10,
                ratio_permille: word(12),
                iaa_decodes: entry[1] & Self::IAA_DECODES != 0,
            })
        })))
    }
}

/// In which format pages should travel: the one by which the most pages get through, of equal ones the one that the sender is fastest
/// with, raw pages first of all, or the one that is `forced`.
///
/// For the sender, who knows the link, and tells the receiver. By whole numbers: whoever computes it from the same values comes to the same
/// answer. The ratio is the sender's, whose pages they are.
///
/// # Errors
///
/// If one end cannot do what is forced.
pub fn agree(
    sender: &CodecOffer,
    receiver: &CodecOffer,
    link: Link,
    forced: Option<PageFormat>,
) -> Result<Agreement, AgreeError> {
    if let Some(format) = forced {
        for (offer, end) in [(sender, "sender"), (receiver, "receiver")] {
            if format != PageFormat::Raw && offer.speed(format).is_none() {
                return Err(AgreeError { format, end });
            }
        }
    }
    let may = |format: &PageFormat| forced.is_none_or(|forced| forced == *format);
    let formats = PageFormat::ALL.into_iter().filter(may);
    let agreements = formats.filter_map(|format| agreement(sender, receiver, link, format));
    // Raw comes first, and stays if nothing gets more through.
    let best = agreements.reduce(|best, other| {
        let through = |agreement: &Agreement| agreement.expected.unwrap_or(u64::MAX);
        let speed = |agreement: &Agreement| {
            let speed = sender.speed(agreement.format);
            speed.map_or(u64::MAX, |speed| speed.encode)
        };
        let rank = |agreement: &Agreement| (through(agreement), speed(agreement));
        if rank(&best) < rank(&other) {
            other
        } else {
            best
        }
    });
    // There is one: raw, or the one that is forced.
    Ok(best.unwrap_or(Agreement {
        format: PageFormat::Raw,
        safe_for_iaa: false,
        expected: link.bytes_per_second,
    }))
}

fn agreement(
    sender: &CodecOffer,
    receiver: &CodecOffer,
    link: Link,
    format: PageFormat,
) -> Option<Agreement> {
    if format == PageFormat::Raw {
        return Some(Agreement {
            format,
            safe_for_iaa: false,
            expected: link.bytes_per_second,
        });
    }
    let (ours, theirs) = (sender.speed(format)?, receiver.speed(format)?);
    let channels = u64::from(link.channels.max(1));
    let ends = ours.encode.min(theirs.decode).saturating_mul(channels);
    let carried = link.bytes_per_second.map_or(u64::MAX, |bytes| {
        let carried = u128::from(bytes) * u128::from(ours.ratio_permille.max(1000)) / 1000;
        u64::try_from(carried).unwrap_or(u64::MAX)
    });
    Some(Agreement {
        format,
        // Larger pages than its window an IAA is not asked to restore.
        safe_for_iaa: format == PageFormat::Deflate
            && theirs.iaa_decodes
            && link.page_size <= LARGEST_FOR_IAA,
        expected: Some(ends.min(carried)),
    })
}

/// What the other end sent is no offer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OfferError {
    /// It is written in another way.
    #[error(
        "an offer of version {version}, where 1 is known: the other end needs another version of parapin"
    )]
    Version {
        /// The version.
        version: u8,
    },
    /// Nobody offered that.
    #[error("pages in the format of number {code}, which was not offered")]
    Format {
        /// The number.
        code: u8,
    },
    /// It is not as long as it says.
    #[error("an offer of {bytes} bytes, which is not as long as it says")]
    Length {
        /// How long it is.
        bytes: usize,
    },
}

/// One end cannot do what is forced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {end} cannot do {format}, which was asked for")]
#[non_exhaustive]
pub struct AgreeError {
    /// What was asked for.
    pub format: PageFormat,
    /// The sender or the receiver.
    pub end: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn speed(format: PageFormat, encode: u64, decode: u64, ratio_permille: u32) -> FormatSpeed {
        FormatSpeed {
            format,
            encode: encode * MB,
            decode: decode * MB,
            ratio_permille,
            iaa_decodes: false,
        }
    }

    /// About what a server of these days has.
    fn software() -> CodecOffer {
        CodecOffer::new([
            speed(PageFormat::Deflate, 230, 600, 2900),
            speed(PageFormat::Zstd, 340, 800, 2700),
            speed(PageFormat::Lz4, 650, 2000, 1900),
        ])
    }

    fn choice(sender: &CodecOffer, receiver: &CodecOffer, megabytes: u64) -> PageFormat {
        let link = Link {
            bytes_per_second: Some(megabytes * MB),
            channels: 4,
            page_size: 4096,
        };
        agree(sender, receiver, link, None).unwrap().format
    }

    #[test]
    fn what_gets_the_most_pages_through_is_chosen() {
        let (ours, theirs) = (software(), software());
        // 1, 10, 25 and 100 Gbit/s.
        assert_eq!(choice(&ours, &theirs, 125), PageFormat::Deflate);
        assert_eq!(choice(&ours, &theirs, 500), PageFormat::Zstd);
        assert_eq!(choice(&ours, &theirs, 1250), PageFormat::Lz4);
        assert_eq!(choice(&ours, &theirs, 12_500), PageFormat::Raw);
        // Nobody to talk to, and nothing known of the link.
        assert_eq!(choice(&ours, &CodecOffer::default(), 1), PageFormat::Raw);
        let unknown = Link {
            bytes_per_second: None,
            channels: 4,
            page_size: 4096,
        };
        let agreed = agree(&ours, &theirs, unknown, None).unwrap();
        assert_eq!((agreed.format, agreed.expected), (PageFormat::Raw, None));
    }

    #[test]
    fn an_iaa_that_receives_has_the_sender_take_care() {
        let with_iaa = CodecOffer::new([FormatSpeed {
            iaa_decodes: true,
            ..speed(PageFormat::Deflate, 3000, 4000, 2500)
        }]);
        let link = Link {
            bytes_per_second: Some(2000 * MB),
            channels: 4,
            page_size: 4096,
        };
        let agreed = agree(&with_iaa, &with_iaa, link, None).unwrap();
        let expected = Agreement {
            format: PageFormat::Deflate,
            safe_for_iaa: true,
            expected: Some(5000 * MB),
        };
        assert_eq!(agreed, expected);
        let agreed = agree(&with_iaa, &software(), link, None).unwrap();
        assert_eq!(
            (agreed.format, agreed.safe_for_iaa, agreed.expected),
            (PageFormat::Deflate, false, Some(2400 * MB))
        );
    }

    #[test]
    fn larger_pages_than_its_window_are_not_an_iaas() {
        let with_iaa = CodecOffer::new([FormatSpeed {
            iaa_decodes: true,
            ..speed(PageFormat::Deflate, 3000, 4000, 2500)
        }]);
        for (page_size, safe) in [(4096, true), (8192, false), (65536, false)] {
            let link = Link {
                bytes_per_second: Some(100 * MB),
                channels: 1,
                page_size,
            };
            let agreed = agree(&with_iaa, &with_iaa, link, None).unwrap();
            assert_eq!(
                (agreed.format, agreed.safe_for_iaa),
                (PageFormat::Deflate, safe)
            );
        }
    }

    #[test]
    fn of_equal_ones_the_fastest_is_taken() {
        let formats = [PageFormat::Deflate, PageFormat::Zstd, PageFormat::Lz4];
        let speeds = [300, 700, 500];
        let speeds = formats.into_iter().zip(speeds);
        let same = CodecOffer::new(speeds.map(|(format, encode)| speed(format, encode, 900, 2000)));
        assert_eq!(choice(&same, &same, 10), PageFormat::Zstd);
    }

    #[test]
    fn the_receiver_takes_what_it_has_offered_and_nothing_else() {
        let offered = CodecOffer::new([speed(PageFormat::Zstd, 300, 800, 2000)]);
        for (format, safe) in [(PageFormat::Raw, false), (PageFormat::Zstd, true)] {
            let agreed = Agreement {
                format,
                safe_for_iaa: safe,
                expected: Some(7),
            };
            let told = Agreement::from_bytes(agreed.to_bytes(), &offered).unwrap();
            assert_eq!(
                told,
                Agreement {
                    expected: None,
                    ..agreed
                }
            );
        }
        for code in [PageFormat::Deflate.code(), PageFormat::Lz4.code(), 4, 255] {
            let refused = Agreement::from_bytes([1, code, 0, 0], &offered);
            assert_eq!(refused, Err(OfferError::Format { code }));
        }
        let refused = Agreement::from_bytes([2, 0, 0, 0], &offered);
        assert_eq!(refused, Err(OfferError::Version { version: 2 }));
    }

    #[test]
    fn what_is_forced_is_taken_or_refused() {
        let link = Link {
            bytes_per_second: Some(12_500 * MB),
            channels: 4,
            page_size: 4096,
        };
        let forced =
            |receiver: &CodecOffer, format| agree(&software(), receiver, link, Some(format));
        for format in PageFormat::ALL {
            assert_eq!(forced(&software(), format).unwrap().format, format);
        }
        let none = CodecOffer::default();
        assert_eq!(
            forced(&none, PageFormat::Raw).unwrap().format,
            PageFormat::Raw
        );
        let error = forced(&none, PageFormat::Zstd).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the receiver cannot do zstd, which was asked for"
        );
    }

    #[test]
    fn an_offer_survives_the_way_and_what_is_no_offer_is_refused() {
        let offer = software();
        let bytes = offer.to_bytes();
        let back = CodecOffer::from_bytes(&bytes).unwrap();
        assert_eq!(back, offer);
        for len in 0..bytes.len() {
            let error = CodecOffer::from_bytes(&bytes[..len]).unwrap_err();
            assert_eq!(error, OfferError::Length { bytes: len });
        }
        let mut other = bytes.clone();
        other[0] = 2;
        assert_eq!(
            CodecOffer::from_bytes(&other),
            Err(OfferError::Version { version: 2 })
        );
        // Formats of a later version, one of them twice, and raw.
        let mut other = bytes;
        other[4] = 9;
        other[20] = PageFormat::Lz4.code();
        let known = CodecOffer::from_bytes(&other).unwrap();
        assert_eq!(known.speeds().len(), 1);
        assert_eq!(known.speeds()[0].ratio_permille, 2700);
        other[20] = PageFormat::Raw.code();
        other[36] = 200;
        assert_eq!(CodecOffer::from_bytes(&other), Ok(CodecOffer::default()));
    }
}
