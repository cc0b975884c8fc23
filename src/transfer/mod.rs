//! What the broker does with messages itself, as a client like any: [`insider`].

pub mod insider;
