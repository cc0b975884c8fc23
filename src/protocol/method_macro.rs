//! Turns the table in [`super::methods`] into structs, the [`Method`](super::methods::Method) enum and its
//! reader and writer.
//!
//! Each field's wire type is also the name of the [`Reader`](super::wire::Reader) and
//! [`Writer`](super::wire::Writer) function that moves it, so the macro holds no knowledge of encoding.

/// The Rust type a wire type is seen as.
macro_rules! rust_type {
    (bit) => { bool };
    (octet) => { u8 };
    (short) => { u16 };
    (long) => { u32 };
    (longlong) => { u64 };
    (shortstr) => { &'a str };
    (shortbytes) => { &'a [u8] };
    (longstr) => { &'a [u8] };
    (table) => { $crate::protocol::table::Table<'a> };
}

/// One method's struct: a unit unless it has fields.
macro_rules! method_struct {
    ($name:literal $Method:ident) => {
        #[doc = concat!("`", $name, "`, without arguments.")]
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $Method;
    };
    ($name:literal $Method:ident $(<$life:lifetime>)? { $($field:ident : $wire:ident),+ }) => {
        #[doc = concat!("The arguments of `", $name, "`.")]
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $Method $(<$life>)? {
            $(
                #[doc = concat!("`", stringify!($field), "`, a ", stringify!($wire), " on the wire.")]
                pub $field: rust_type!($wire),
            )+
        }
    };
}

/// The whole table. An entry reads: class id, method id, name, Rust name, a leading `ticket(..)` that is
/// skipped, the fields in wire order, trailing `reserved(..)` fields that are skipped.
macro_rules! methods {
    ($(
        $class:literal $id:literal $name:literal $Method:ident $(<$life:lifetime>)?
        $(ticket($ticket:ident))?
        $({ $($field:ident : $wire:ident),+ $(,)? })?
        $(reserved($($reserved:ident),+))?
    ;)+) => {
        $( method_struct! { $name $Method $(<$life>)? $({ $($field : $wire),+ })? } )+

        /// A method of AMQP 0-9-1 or of RabbitMQ's extensions to it, with its arguments.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum Method<'a> {
            $(
                #[doc = concat!("`", $name, "`")]
                $Method($Method $(<$life>)?),
            )+
        }

        impl<'a> Method<'a> {
            /// Class id and method id.
            pub fn id(&self) -> (u16, u16) {
                match self {
                    $( Self::$Method(_) => ($class, $id), )+
                }
            }

            /// The name as the specification and RabbitMQ's texts give it.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Self::$Method(_) => $name, )+
                }
            }

            /// The method of that id with its arguments, or `None` if no method has it.
            #[inline]
            fn read(id: (u16, u16), arguments: &'a [u8]) -> Result<Option<Self>, WireError> {
                let mut reader = Reader::new(arguments);
                let method = match id {
                    $(
                        ($class, $id) => {
                            $( reader.$ticket()?; )?
                            let method = $Method $({ $($field: reader.$wire()?),+ })?;
                            $( $( reader.$reserved()?; )+ )?
                            Self::$Method(method)
                        }
                    )+
                    _ => return Ok(None),
                };
                reader.finish()?;
                Ok(Some(method))
            }

            /// One of every method, with arguments from the samples.
            #[cfg(test)]
            fn samples(samples: &mut tests::Samples<'a>) -> Vec<Self> {
                vec![ $( Self::$Method($Method $({ $($field: samples.$wire()),+ })?) ),+ ]
            }

            fn write(&self, writer: &mut Writer<'_>) {
                match self {
                    $(
                        Self::$Method($Method $({ $($field),+ })?) => {
                            $( writer.$ticket(Default::default()); )?
                            $( $( writer.$wire(*$field); )+ )?
                            $( $( writer.$reserved(Default::default()); )+ )?
                        }
                    )+
                }
            }
        }
    };
}

pub(super) use {method_struct, methods, rust_type};
