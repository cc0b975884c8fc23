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
pub const TABLE_ENTRIES_MAX: usize = 16 * 1024;

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

#[cfg(test)]
mod tests {
    use super::{ArrayBuf, TABLE_DEPTH_MAX, TABLE_ENTRIES_MAX, Table, TableBuf, TableError};
    use crate::protocol::field::Field;

    /// A table with so many levels of tables below it.
    fn nested_tables(levels: usize) -> TableBuf {
        let mut table = TableBuf::new();
        for _ in 0..levels {
            let mut outer = TableBuf::new();
            outer.insert("t", Field::Table(table.as_table()));
            table = outer;
        }
        table
    }

    /// A table with so many levels of arrays below it.
    fn nested_arrays(levels: usize) -> TableBuf {
        let mut array = ArrayBuf::new();
        for _ in 1..levels {
            let mut outer = ArrayBuf::new();
            outer.push(Field::Array(array.as_array()));
            array = outer;
        }
        let mut table = TableBuf::new();
        table.insert("a", Field::Array(array.as_array()));
        table
    }

    fn parsed(table: &TableBuf) -> Result<Table<'_>, TableError> {
        Table::parse(table.as_table().as_bytes())
    }

    #[test]
    fn a_captured_table_is_walked_in_place() {
        // pika's client capabilities, shortened.
        let raw = b"\x07productS\x00\x00\x00\x04Pika\x0ccapabilitiesF\x00\x00\x00\x0d\x0abasic.nackt\x01\x03numl\xff\xff\xff\xff\xff\xff\xff\xfe";
        let table = Table::parse(raw).unwrap();
        assert_eq!(table.as_bytes(), raw);
        assert_eq!(table.len(), 3);
        assert_eq!(table.get("product"), Some(Field::LongStr(b"Pika")));
        assert_eq!(table.get("num"), Some(Field::I64(-2)));
        let Some(Field::Table(capabilities)) = table.get("capabilities") else {
            panic!("capabilities are a table");
        };
        assert_eq!(capabilities.get("basic.nack"), Some(Field::Bool(true)));
        assert_eq!(table.get("absent"), None);
    }

    #[test]
    fn every_type_is_read_as_built() {
        let fields = [
            Field::Bool(false),
            Field::I8(-1),
            Field::U8(255),
            Field::I16(-2),
            Field::U16(65535),
            Field::I32(-3),
            Field::U32(u32::MAX),
            Field::I64(i64::MIN),
            Field::F32(0.5),
            Field::F64(-0.25),
            Field::Decimal { scale: 255, value: u32::MAX },
            Field::LongStr(b"\xff"),
            Field::Bytes(b""),
            Field::Timestamp(u64::MAX),
            Field::Table(Table::EMPTY),
            Field::Void,
        ];
        let mut array = ArrayBuf::new();
        fields.iter().for_each(|&field| _ = array.push(field));
        let mut table = TableBuf::new();
        table.insert("all", Field::Array(array.as_array()));
        assert!(parsed(&table).is_ok());
        assert!(array.as_array().iter().eq(fields));
        assert_eq!(
            Table::parse(b"\x01kL\xff\xff\xff\xff\xff\xff\xff\xff").unwrap().get("k"),
            Some(Field::I64(-1))
        );
    }

    #[test]
    fn of_duplicate_keys_all_stay_and_the_first_is_found() {
        let mut table = TableBuf::new();
        table.insert("k", Field::U8(1)).insert("k", Field::U8(2));
        assert_eq!(table.as_table().len(), 2);
        assert_eq!(table.as_table().get("k"), Some(Field::U8(1)));
    }

    #[test]
    fn nesting_is_bounded() {
        for nested in [nested_tables, nested_arrays] {
            assert!(parsed(&nested(TABLE_DEPTH_MAX)).is_ok());
            assert_eq!(parsed(&nested(TABLE_DEPTH_MAX + 1)), Err(TableError::TooDeep));
            assert_eq!(parsed(&nested(600)), Err(TableError::TooDeep));
        }
    }

    #[test]
    fn entries_are_bounded_over_all_levels() {
        let mut array = ArrayBuf::new();
        (1..TABLE_ENTRIES_MAX).for_each(|_| _ = array.push(Field::Void));
        let mut table = TableBuf::new();
        table.insert("a", Field::Array(array.as_array()));
        assert!(parsed(&table).is_ok());
        table.insert("b", Field::Void);
        assert_eq!(parsed(&table), Err(TableError::TooManyEntries));
    }

    #[test]
    fn broken_bytes_are_refused() {
        let error = |raw| Table::parse(raw).unwrap_err();
        assert_eq!(error(b"\x05key"), TableError::Truncated);
        assert_eq!(error(b"\x01k"), TableError::Truncated);
        assert_eq!(error(b"\x01kS\xff\xff\xff\xff"), TableError::Truncated);
        assert_eq!(error(b"\x01kU\x00\x00"), TableError::UnknownType(b'U'));
        assert_eq!(error(b"\x01kF\x00\x00\x00\x01\x05"), TableError::Truncated);
        assert_eq!(error(b"\x01kA\x00\x00\x00\x01?"), TableError::UnknownType(b'?'));
    }

    #[test]
    fn a_long_key_is_cut() {
        let mut table = TableBuf::new();
        table.insert(&"k".repeat(300), Field::Void);
        assert_eq!(parsed(&table).unwrap().iter().next().unwrap().0.len(), 255);
    }
}
