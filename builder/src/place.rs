//! Errors that point at a place in a file: `file:line:column: message`.

use std::fmt;
use std::path::{Path, PathBuf};

/// Bad input of the user's: exit code 2.
#[derive(Debug)]
pub(crate) struct Misplaced {
    file: PathBuf,
    line: usize,
    column: usize,
    message: String,
}

impl Misplaced {
    /// From a byte offset into the file's text.
    pub(crate) fn at(file: &Path, text: &str, offset: usize, message: impl Into<String>) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        Self {
            file: file.into(),
            line: line(text, offset),
            column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
            message: message.into(),
        }
    }

    /// From a TOML error, with the nearest known key as a hint.
    pub(crate) fn toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let hint = contract::nearest::hint(error.message()).map(|h| format!("; hint: {h}")).unwrap_or_default();
        Self::at(file, text, error.span().map_or(0, |s| s.start), format!("{}{hint}", error.message()))
    }

    /// Of the place where `needle` first stands in the text, else of the file's beginning.
    pub(crate) fn naming(file: &Path, text: &str, needle: &str, message: impl Into<String>) -> Self {
        Self::at(file, text, text.find(needle).unwrap_or(0), message)
    }
}

/// The line of a byte offset, from 1.
pub(crate) fn line(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
    }
}

impl std::error::Error for Misplaced {}

/// Several problems of one file, each on its own line: exit code 2.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Refused {}
