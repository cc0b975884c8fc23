//! Tables and arrays of our own making, built entry by entry in wire form.
//!
//! Builders trust their caller: the limits of [`super::table`] are for what peers send.

use bytes::BufMut;

use super::field::Field;
use super::table::{Array, Table};
use super::wire::{put_longstr, put_shortbytes};

/// A field table that owns its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableBuf {
    raw: Vec<u8>,
}

impl TableBuf {
    /// The table without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry; a key is cut at 255 bytes. A key already there stays, and the first one is found.
    pub fn insert(&mut self, key: &str, field: Field<'_>) -> &mut Self {
        self.insert_bytes(key.as_bytes(), field)
    }

    /// Appends an entry under a key as [`Table::iter`] gives it.
    pub fn insert_bytes(&mut self, key: &[u8], field: Field<'_>) -> &mut Self {
        put_shortbytes(&mut self.raw, key);
        put_field(&mut self.raw, field);
        self
    }

    /// A view of what was built.
    pub fn as_table(&self) -> Table<'_> {
        Table::unchecked(&self.raw)
    }

    /// The bytes that go after the length prefix.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }
}

impl From<Table<'_>> for TableBuf {
    fn from(table: Table<'_>) -> Self {
        Self { raw: table.as_bytes().to_vec() }
    }
}

/// A field array that owns its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArrayBuf {
    raw: Vec<u8>,
}

impl ArrayBuf {
    /// The array without elements.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an element.
    pub fn push(&mut self, field: Field<'_>) -> &mut Self {
        put_field(&mut self.raw, field);
        self
    }

    /// A view of what was built.
    pub fn as_array(&self) -> Array<'_> {
        Array::unchecked(&self.raw)
    }

    /// The bytes that go after the length prefix.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }
}

fn put_field(out: &mut Vec<u8>, field: Field<'_>) {
    out.put_u8(tag(field));
    match field {
        Field::Bool(value) => out.put_u8(value.into()),
        Field::I8(value) => out.put_i8(value),
        Field::U8(value) => out.put_u8(value),
        Field::I16(value) => out.put_i16(value),
        Field::U16(value) => out.put_u16(value),
        Field::I32(value) => out.put_i32(value),
        Field::U32(value) => out.put_u32(value),
        Field::I64(value) => out.put_i64(value),
        Field::F32(value) => out.put_f32(value),
        Field::F64(value) => out.put_f64(value),
        Field::Decimal { scale, value } => {
            out.put_u8(scale);
            out.put_u32(value);
        }
        Field::LongStr(bytes) | Field::Bytes(bytes) => put_longstr(out, bytes),
        Field::Timestamp(seconds) => out.put_u64(seconds),
        Field::Table(table) => put_longstr(out, table.as_bytes()),
        Field::Array(array) => put_longstr(out, array.as_bytes()),
        Field::Void => {}
    }
}

fn tag(field: Field<'_>) -> u8 {
    match field {
        Field::Bool(_) => b't',
        Field::I8(_) => b'b',
        Field::U8(_) => b'B',
        Field::I16(_) => b's',
        Field::U16(_) => b'u',
        Field::I32(_) => b'I',
        Field::U32(_) => b'i',
        Field::I64(_) => b'l',
        Field::F32(_) => b'f',
        Field::F64(_) => b'd',
        Field::Decimal { .. } => b'D',
        Field::LongStr(_) => b'S',
        Field::Bytes(_) => b'x',
        Field::Timestamp(_) => b'T',
        Field::Table(_) => b'F',
        Field::Array(_) => b'A',
        Field::Void => b'V',
    }
}
