//! One value of a field table: a tag octet and what follows it, as RabbitMQ reads them.
//!
//! RabbitMQ's tags differ from the specification's in two: `s` is a signed 16-bit integer, and `l` and `L`
//! are both signed. Knows nothing of what an argument of this or that name means.
// AMQP 0-9-1 §4.2.5.5, and RabbitMQ's errata §3

use super::table::{Array, Table, TableError};
use super::wire::Reader;

/// A value in a field table or array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, also read from `L`
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` divided by ten `scale` times.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`, text by custom but any bytes by law.
    LongStr(&'a [u8]),
    /// `x`
    Bytes(&'a [u8]),
    /// `T`, seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(Table<'a>),
    /// `A`
    Array(Array<'a>),
    /// `V`
    Void,
}

impl<'a> Field<'a> {
    /// The value of any integer type; a timestamp is none.
    pub fn as_int(&self) -> Option<i64> {
        Some(match *self {
            Self::I8(value) => value.into(),
            Self::U8(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I64(value) => value,
            _ => return None,
        })
    }

    /// RabbitMQ's name for the type, as its error texts give it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Bytes(_) => "binary",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Array(_) => "array",
            Self::Void => "void",
        }
    }

    /// Whether a redeclaration may give `other` where `self` was declared.
    ///
    /// As in RabbitMQ what counts is the value: integers of any width, floats of either, text and bytes.
    pub fn equivalent(&self, other: &Field<'_>) -> bool {
        if let (Some(mine), Some(theirs)) = (self.as_bignum(), other.as_bignum()) {
            return mine == theirs;
        }
        if let (Some(mine), Some(theirs)) = (self.as_float(), other.as_float()) {
            return mine == theirs;
        }
        match (*self, *other) {
            (Self::LongStr(mine) | Self::Bytes(mine), Field::LongStr(theirs) | Field::Bytes(theirs)) => {
                mine == theirs
            }
            (mine, theirs) => mine == theirs,
        }
    }

    /// Reads a tag and its value; what a nested table or array holds is not looked at.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, TableError> {
        let tag = reader.octet()?;
        Ok(match tag {
            b't' => Self::Bool(reader.octet()? != 0),
            b'b' => Self::I8(reader.octet()?.cast_signed()),
            b'B' => Self::U8(reader.octet()?),
            b's' => Self::I16(reader.short()?.cast_signed()),
            b'u' => Self::U16(reader.short()?),
            b'I' => Self::I32(reader.long()?.cast_signed()),
            b'i' => Self::U32(reader.long()?),
            b'l' | b'L' => Self::I64(reader.longlong()?.cast_signed()),
            b'f' => Self::F32(f32::from_bits(reader.long()?)),
            b'd' => Self::F64(f64::from_bits(reader.longlong()?)),
            b'D' => Self::Decimal { scale: reader.octet()?, value: reader.long()? },
            b'S' => Self::LongStr(reader.longstr()?),
            b'x' => Self::Bytes(reader.longstr()?),
            b'T' => Self::Timestamp(reader.longlong()?),
            b'F' => Self::Table(Table::unchecked(reader.longstr()?)),
            b'A' => Self::Array(Array::unchecked(reader.longstr()?)),
            b'V' => Self::Void,
            _ => return Err(TableError::UnknownType(tag)),
        })
    }

    fn as_bignum(&self) -> Option<i128> {
        match *self {
            Self::Timestamp(seconds) => Some(seconds.into()),
            _ => self.as_int().map(i128::from),
        }
    }

    fn as_float(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Field;

    #[test]
    fn equivalence_is_by_value() {
        let same = [
            (Field::I8(5), Field::I64(5)),
            (Field::U32(5), Field::I16(5)),
            (Field::F32(0.5), Field::F64(0.5)),
            (Field::LongStr(b"a"), Field::Bytes(b"a")),
            (Field::Timestamp(5), Field::I32(5)),
            (Field::Void, Field::Void),
        ];
        for (a, b) in same {
            assert!(a.equivalent(&b) && b.equivalent(&a), "{a:?} and {b:?}");
        }
        let different = [
            (Field::I8(5), Field::I64(6)),
            (Field::I32(1), Field::F64(1.0)),
            (Field::Bool(true), Field::I8(1)),
            (Field::LongStr(b"5"), Field::I8(5)),
            (Field::Timestamp(u64::MAX), Field::I64(-1)),
        ];
        for (a, b) in different {
            assert!(!a.equivalent(&b) && !b.equivalent(&a), "{a:?} and {b:?}");
        }
    }

    #[test]
    fn integers_of_any_width_are_integers() {
        assert_eq!(Field::U8(200).as_int(), Some(200));
        assert_eq!(Field::I32(-1).as_int(), Some(-1));
        assert_eq!(Field::U32(u32::MAX).as_int(), Some(4_294_967_295));
        assert_eq!(Field::Timestamp(1).as_int(), None);
        assert_eq!(Field::LongStr(b"1").as_int(), None);
    }
}
