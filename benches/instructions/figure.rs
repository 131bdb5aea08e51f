//! The recorded figure, what it was recorded on, and what a new one means beside it.

use std::collections::BTreeSet;
use std::fmt;

/// How far a figure may be from the recorded one on the same kind of processor: 5 %.
pub(crate) const SAME: f64 = 0.05;
/// How far where the processor has other features: libraries choose other code for it.
pub(crate) const OTHER: f64 = 0.20;

/// Features of a processor that valgrind passes on and that the libraries in Sidekey, or the C library below them, choose
/// their code by.
const CHOOSING: [&str; 14] = [
    "adx",
    "aes",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "erms",
    "fma",
    "movbe",
    "pclmulqdq",
    "rdrand",
    "sha_ni",
    "sse4_2",
    "ssse3",
];

/// A figure, and what it was measured on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// User instructions for one request.
    pub(crate) instructions: f64,
    /// As `std::env::consts::ARCH` has it.
    pub(crate) architecture: String,
    /// Those of the features above that the processor has.
    pub(crate) features: BTreeSet<String>,
    /// What counted, and what compiled; told where figures differ, and compared by nobody.
    pub(crate) valgrind: String,
    /// See there.
    pub(crate) rustc: String,
}

/// What a new figure means.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It is as it was.
    Same,
    /// It moved by more than it may.
    Moved,
    /// It is near enough for a processor that has other features; this is to be said aloud.
    SameElsewhere,
    /// Nothing can be said: the processor is of another architecture.
    Incomparable,
}

impl Figure {
    /// What this one means beside the recorded one.
    pub(crate) fn beside(&self, recorded: &Figure) -> Verdict {
        if self.architecture != recorded.architecture {
            return Verdict::Incomparable;
        }
        let moved = self.moved(recorded).abs();
        match self.features == recorded.features {
            true if moved <= SAME => Verdict::Same,
            false if moved <= OTHER => Verdict::SameElsewhere,
            _ => Verdict::Moved,
        }
    }

    /// Whether it is too high, and so worth another look.
    pub(crate) fn is_dearer(&self, recorded: &Figure) -> bool {
        self.beside(recorded) == Verdict::Moved && self.instructions > recorded.instructions
    }

    /// By which part of the recorded one it is more.
    pub(crate) fn moved(&self, recorded: &Figure) -> f64 {
        self.instructions / recorded.instructions - 1.0
    }

    /// Reads what [`Display`](fmt::Display) writes: lines of `name: value`, and comments.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value = |name: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let found = lines.filter_map(|line| line.split_once(':')).find(|(own, _)| *own == name);
            found.map(|(_, value)| value.trim().to_owned()).ok_or(format!("`{name}` is missing"))
        };
        let instructions: f64 = value("instructions")?.parse().map_err(|_| "`instructions` is a number")?;
        if !(instructions.is_finite() && instructions > 0.0) {
            return Err("`instructions` is a number above 0".to_owned());
        }
        Ok(Figure {
            instructions,
            architecture: value("architecture")?,
            features: value("features")?.split_whitespace().map(str::to_owned).collect(),
            valgrind: value("valgrind")?,
            rustc: value("rustc")?,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "# User instructions for one request, as callgrind counts them. `scripts/instructions --record`"
        )?;
        writeln!(out, "# writes this file; `scripts/instructions` compares, and is a part of `scripts/test`.")?;
        writeln!(out, "instructions: {:.0}", self.instructions)?;
        writeln!(out, "architecture: {}", self.architecture)?;
        writeln!(out, "features: {}", self.features.iter().map(String::as_str).collect::<Vec<_>>().join(" "))?;
        writeln!(out, "valgrind: {}", self.valgrind)?;
        writeln!(out, "rustc: {}", self.rustc)
    }
}

/// The features that count, from the text of `/proc/cpuinfo`.
pub(crate) fn features(cpuinfo: &str) -> BTreeSet<String> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_whitespace().filter(|flag| CHOOSING.contains(flag)).map(str::to_owned).collect()
}
