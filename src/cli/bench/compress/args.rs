// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Flags of `parapin bench compress`.

use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr};

use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser},
};
use idxd::AccelPaths;
use migration::{PageFormat, Policy};

use crate::cli::{args::size, bench::args::CommonArgs};

/// Flags of `parapin bench compress`.
#[derive(Debug, ClapArgs)]
pub(crate) struct CompressArgs {
    /// In which format pages travel.
    #[arg(long, default_value = ALL, value_parser = one_or_all(PageFormat::ALL, PageFormat::name))]
    pub(crate) codec: Choice<PageFormat>,
    /// What compresses to DEFLATE beside software; auto is IAA if there is a queue, and a model of it if there is none.
    #[arg(long, value_enum, default_value_t = EngineName::Auto)]
    pub(crate) engine: EngineName,
    /// What to do when queues are full; each is held against what QEMU does, retry [default: all].
    #[arg(long, value_parser = one_or_all(Policy::ALL, Policy::name))]
    pub(crate) policy: Option<Choice<Policy>>,
    /// The pages: a file, such as a dump of a guest's memory, or made-up ones (for a file of that name write ./synthetic).
    #[arg(long, value_name = "FILE|synthetic", default_value = SYNTHETIC, value_parser = OsStringValueParser::new().map(CorpusName::from))]
    pub(crate) corpus: CorpusName,
    /// How much of the corpus is used: its beginning [default: 16M].
    #[arg(long, value_parser = size, allow_negative_numbers = true)]
    pub(crate) size: Option<u64>,
    /// Queues to use, for the engines iaa and auto [default: all that this process may use].
    #[arg(long, value_name = "iax:/dev/iax/wq1.0,…")]
    pub(crate) accel_path: Option<AccelPaths>,
    /// By which Huffman codes an IAA compresses [default: fixed, and all where they are compared].
    #[arg(long, value_enum)]
    pub(crate) coding: Option<CodingName>,
    /// Threads that compress at once, in the rows about policies, and of the migration that a codec is chosen for.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) channels: u8,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

const ALL: &str = "all";
const SYNTHETIC: &str = "synthetic";

/// One of them, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    All,
    One(T),
}

/// Accepts a name of theirs, or `all`.
fn one_or_all<T, const N: usize>(
    of: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = Choice<T>>
where
    T: FromStr + Clone + Send + Sync + 'static,
{
    let names = of.into_iter().map(name).chain([ALL]);
    // What is no name of theirs is the other one.
    PossibleValuesParser::new(names).map(|name| name.parse().map_or(Choice::All, Choice::One))
}

impl<T: PartialEq> Choice<T> {
    pub(crate) fn has(&self, one: &T) -> bool {
        match self {
            Self::All => true,
            Self::One(only) => only == one,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::One(one) => one.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorpusName {
    Synthetic,
    File(PathBuf),
}

impl From<OsString> for CorpusName {
    fn from(name: OsString) -> Self {
        match name == SYNTHETIC {
            true => Self::Synthetic,
            false => Self::File(name.into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// The threads that send, and nothing else.
    Software,
    /// Intel IAA.
    Iaa,
    /// A model of IAA in this process: what asking costs, not what answering does.
    Model,
    /// IAA if this process may use a queue, else the model.
    Auto,
}

impl EngineName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Iaa => "iaa",
            Self::Model => "model",
            Self::Auto => "auto",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodingName {
    /// The fixed codes of DEFLATE.
    Fixed,
    /// One table for all pages, made from the corpus.
    Canned,
    /// Codes that the device makes for each page, as IAA 2.0 does.
    Generated,
}

impl CodingName {
    pub(crate) const ALL: [Self; 3] = [Self::Fixed, Self::Canned, Self::Generated];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Canned => "canned",
            Self::Generated => "generated",
        }
    }
}

impl CompressArgs {
    /// A flag that says nothing with others, and why.
    pub(crate) fn surplus(&self) -> Option<String> {
        use EngineName::{Auto, Iaa, Model, Software};
        let flags: [(&str, bool, &[EngineName]); 3] = [
            ("--policy", self.policy.is_some(), &[Iaa, Model, Auto]),
            ("--coding", self.coding.is_some(), &[Iaa, Model, Auto]),
            ("--accel-path", self.accel_path.is_some(), &[Iaa, Auto]),
        ];
        for (flag, given, engines) in flags {
            if given && !engines.contains(&self.engine) {
                let engines: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
                return Some(format!(
                    "{flag} is for --engine {}, not for {}",
                    engines.join(" and "),
                    self.engine.name()
                ));
            }
            if given && !self.has_deflate() {
                return Some(format!(
                    "{flag} is for pages that an IAA compresses, which is to deflate and not to {}",
                    self.codec
                ));
            }
        }
        let only_software = matches!(self.engine, Software | Auto);
        (!only_software && !self.has_deflate()).then(|| {
            format!(
                "--engine {} compresses to deflate, not to {}",
                self.engine.name(),
                self.codec
            )
        })
    }

    /// Whether pages may travel as what an IAA writes.
    pub(crate) fn has_deflate(&self) -> bool {
        self.codec.has(&PageFormat::Deflate)
    }

    /// The codecs of software that are measured.
    pub(crate) fn formats(&self) -> impl Iterator<Item = PageFormat> + use<> {
        let codec = self.codec;
        PageFormat::ALL
            .into_iter()
            .filter(move |format| codec.has(format))
    }

    /// The policies that are compared.
    pub(crate) fn policies(&self) -> impl Iterator<Item = Policy> + use<> {
        let policy = self.policy.unwrap_or(Choice::All);
        Policy::ALL.into_iter().filter(move |one| policy.has(one))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        args: CompressArgs,
    }

    fn typed(arguments: &[&str]) -> CompressArgs {
        Typed::parse_from(["compress"].iter().chain(arguments)).args
    }

    #[test]
    fn one_is_one_and_all_are_all() {
        let args = typed(&[]);
        assert!(args.formats().eq(PageFormat::ALL) && args.policies().eq(Policy::ALL));
        assert_eq!((args.policy, args.channels), (None, 4));
        for format in PageFormat::ALL {
            let args = typed(&["--codec", format.name()]);
            assert!(args.formats().eq([format]));
            assert_eq!(args.has_deflate(), format == PageFormat::Deflate);
        }
        for policy in Policy::ALL {
            assert!(typed(&["--policy", policy.name()]).policies().eq([policy]));
        }
        assert_eq!(typed(&["--policy", "all"]).policy, Some(Choice::All));
        assert_eq!(typed(&["--codec", "all"]).codec, Choice::All);
    }

    #[test]
    fn a_corpus_is_made_up_or_a_file() {
        assert_eq!(typed(&[]).corpus, CorpusName::Synthetic);
        assert_eq!(
            typed(&["--corpus", "./synthetic"]).corpus,
            CorpusName::File("./synthetic".into())
        );
    }
}
