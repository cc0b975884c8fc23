//! Field tables and arrays as views over their bytes: validated once, walked in place, relayed untouched.
//!
//! A peer decides how a table looks, so [`Table::parse`] bounds nesting and entries before anyone walks it;
//! after that iteration cannot fail. Nothing here ever re-encodes what a peer sent. To make a table of our
//! own see [`TableBuf`]. Knows nothing of what the keys mean.
// AMQP 0-9-1 §4.2.5.5

use thiserror::Error;

pub use super::table_buf::{ArrayBuf, TableBuf};

use super::field::Field;
use super::wire::{Reader, WireError};

/// Levels of tables and arrays below the outermost table.
pub const TABLE_DEPTH_MAX: usize = 16;

/// Entries and array elements of a table, all levels together.
pub const TABLE_ENTRIES_MAX: usize = 1024;

/// Why bytes are not a field table that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableError {
    /// More than [`TABLE_DEPTH_MAX`] levels.
    #[error("field table nested deeper than {TABLE_DEPTH_MAX} levels")]
    TooDeep,
    /// More than [`TABLE_ENTRIES_MAX`] entries.
    #[error("field table of more than {TABLE_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// A tag no field type has.
    #[error("unknown field type {0} in field table")]
    UnknownType(u8),
    /// The bytes end inside an entry.
    #[error("field table ends inside an entry")]
    Truncated,
}

impl From<WireError> for TableError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Table(error) => error,
            WireError::Length | WireError::BadUtf8 => Self::Truncated,
        }
    }
}

/// A field table: names and values in the order they were sent, duplicates included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<'a> {
    raw: &'a [u8],
}

impl<'a> Table<'a> {
    /// The table without entries.
    pub const EMPTY: Self = Self { raw: &[] };

    /// Checks the bytes after the table's length prefix, down to the deepest entry.
    pub fn parse(raw: &'a [u8]) -> Result<Self, TableError> {
        if !raw.is_empty() {
            Validator { entries_left: TABLE_ENTRIES_MAX }.table(raw, TABLE_DEPTH_MAX)?;
        }
        Ok(Self { raw })
    }

    /// A view of bytes that were checked before; with others, iteration ends where they make no sense.
    pub fn unchecked(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes after the length prefix, exactly as they came.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// The entries in wire order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Field<'a>)> + use<'a> {
        let mut reader = Reader::new(self.raw);
        std::iter::from_fn(move || Some((reader.shortbytes().ok()?, Field::read(&mut reader).ok()?)))
    }

    /// The value of `key`; of duplicates the first.
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        self.iter().find(|(name, _)| *name == key.as_bytes()).map(|(_, field)| field)
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The number of entries, counted by walking them.
    pub fn len(&self) -> usize {
        self.iter().count()
    }
}

/// A field array: values without names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    raw: &'a [u8],
}

impl<'a> Array<'a> {
    /// A view of bytes that were checked before; with others, iteration ends where they make no sense.
    pub fn unchecked(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes after the length prefix, exactly as they came.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// The elements in wire order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut reader = Reader::new(self.raw);
        std::iter::from_fn(move || Field::read(&mut reader).ok())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The number of elements, counted by walking them.
    pub fn len(&self) -> usize {
        self.iter().count()
    }
}

/// Walks a table once to its leaves. Recursion is bounded by the depth it is given, at 16 small frames.
struct Validator {
    entries_left: usize,
}

impl Validator {
    fn table(&mut self, raw: &[u8], depth_left: usize) -> Result<(), TableError> {
        let mut reader = Reader::new(raw);
        while !reader.is_empty() {
            reader.shortbytes()?;
            self.entry(&mut reader, depth_left)?;
        }
        Ok(())
    }

    fn array(&mut self, raw: &[u8], depth_left: usize) -> Result<(), TableError> {
        let mut reader = Reader::new(raw);
        while !reader.is_empty() {
            self.entry(&mut reader, depth_left)?;
        }
        Ok(())
    }

    fn entry(&mut self, reader: &mut Reader<'_>, depth_left: usize) -> Result<(), TableError> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or(TableError::TooManyEntries)?;
        let deeper = || depth_left.checked_sub(1).ok_or(TableError::TooDeep);
        match Field::read(reader)? {
            Field::Table(table) => self.table(table.raw, deeper()?),
            Field::Array(array) => self.array(array.raw, deeper()?),
            _ => Ok(()),
        }
    }
}
