//! A field value as Erlang prints it, for the error texts that quote one.

use std::fmt::{self, Display, Formatter};

use crate::protocol::erlang::Pretty;
use crate::protocol::field::Field;

/// Displays as the term RabbitMQ holds for the value. Nesting was bounded when the value was read.
pub(crate) struct Term<'a>(pub(crate) Field<'a>);

impl Display for Term<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Field::Bool(value) => value.fmt(f),
            Field::F32(value) => write!(f, "{:?}", f64::from(value)),
            Field::F64(value) => write!(f, "{value:?}"),
            Field::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            Field::LongStr(bytes) | Field::Bytes(bytes) => Pretty(bytes).fmt(f),
            Field::Timestamp(seconds) => seconds.fmt(f),
            Field::Void => f.write_str("undefined"),
            Field::Table(table) => list(f, table.iter(), |f, (key, field)| {
                write!(f, "{{{},{},{}}}", Pretty(key), field.type_name(), Term(field))
            }),
            Field::Array(array) => {
                list(f, array.iter(), |f, field| write!(f, "{{{},{}}}", field.type_name(), Term(field)))
            }
            whole => whole.as_int().unwrap_or_default().fmt(f),
        }
    }
}

fn list<T>(
    f: &mut Formatter<'_>,
    items: impl Iterator<Item = T>,
    show: impl Fn(&mut Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (place, item) in items.enumerate() {
        if place > 0 {
            f.write_str(",")?;
        }
        show(f, item)?;
    }
    f.write_str("]")
}
