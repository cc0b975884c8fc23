//! How RabbitMQ shows a field in an error text: `received '2000' but current is 'drop-head'`.
//!
//! Text stands bare, everything else as an Erlang term; floats alone are printed the Rust way.

use std::fmt::{self, Display, Formatter};

use super::erlang::Pretty;
use super::field::Field;

impl Display for Field<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LongStr(bytes) | Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            field => Term(field).fmt(f),
        }
    }
}

/// A field inside another one.
pub(crate) struct Term<'a>(pub(crate) Field<'a>);

impl Display for Term<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Field::Bool(value) => value.fmt(f),
            Field::I8(value) => value.fmt(f),
            Field::U8(value) => value.fmt(f),
            Field::I16(value) => value.fmt(f),
            Field::U16(value) => value.fmt(f),
            Field::I32(value) => value.fmt(f),
            Field::U32(value) => value.fmt(f),
            Field::I64(value) => value.fmt(f),
            Field::Timestamp(value) => value.fmt(f),
            Field::F32(value) => fmt::Debug::fmt(&f64::from(value), f),
            Field::F64(value) => fmt::Debug::fmt(&value, f),
            Field::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            Field::LongStr(bytes) | Field::Bytes(bytes) => Pretty(bytes).fmt(f),
            Field::Void => f.write_str("undefined"),
            Field::Table(table) => list(f, table.iter(), |f, (key, field)| {
                write!(f, "{{{},{},{}}}", Pretty(key), field.type_name(), Term(field))
            }),
            Field::Array(array) => {
                list(f, array.iter(), |f, field| write!(f, "{{{},{}}}", field.type_name(), Term(field)))
            }
        }
    }
}

fn list<T>(
    f: &mut Formatter<'_>,
    items: impl Iterator<Item = T>,
    mut item: impl FnMut(&mut Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (i, each) in items.enumerate() {
        f.write_str(if i == 0 { "" } else { "," })?;
        item(f, each)?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use crate::protocol::field::Field;
    use crate::protocol::table::{ArrayBuf, TableBuf};

    #[test]
    fn shows_fields_as_rabbitmq_does() {
        let mut array = ArrayBuf::new();
        array.push(Field::I32(-1)).push(Field::LongStr(b"a"));
        let mut table = TableBuf::new();
        table.insert("k", Field::Array(array.as_array())).insert("v", Field::Void);
        let shown = |field: Field<'_>| field.to_string();

        assert_eq!(shown(Field::LongStr(b"drop-head")), "drop-head");
        assert_eq!(shown(Field::I64(2000)), "2000");
        assert_eq!(shown(Field::F32(1.5)), "1.5");
        assert_eq!(shown(Field::Decimal { scale: 2, value: 314 }), "{2,314}");
        assert_eq!(
            shown(Field::Table(table.as_table())),
            r#"[{<<"k">>,array,[{signedint,-1},{longstr,<<"a">>}]},{<<"v">>,void,undefined}]"#
        );
    }
}
