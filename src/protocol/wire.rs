//! The elementary data types of AMQP: how each is read from a slice and written to a buffer.
//!
//! Consecutive bits share octets, lowest first; [`Reader`] and [`Writer`] keep count, so that callers name
//! fields one after the other and never see the packing. Knows nothing of frames, methods or properties.
// AMQP 0-9-1 §4.2.5

use bytes::{BufMut, BytesMut};
use nom::bytes::complete::take;
use nom::combinator::{all_consuming, map_res, success};
use nom::error::{ErrorKind, FromExternalError, ParseError};
use nom::multi::length_data;
use nom::{IResult, Parser};

use super::table::{Table, TableError};

/// Bytes a shortstr holds at most.
pub(super) const SHORTSTR_BYTES_MAX: usize = 255;

const BITS_PER_OCTET: u8 = 8;

/// Why a value could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireError {
    /// The slice ends inside the value, or goes on after the last.
    Length,
    /// A shortstr is not UTF-8.
    BadUtf8,
    /// A field table is broken or breaks a limit.
    Table(TableError),
}

impl ParseError<&[u8]> for WireError {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        Self::Length
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

impl<'a> FromExternalError<&'a [u8], std::str::Utf8Error> for WireError {
    fn from_external_error(_: &'a [u8], _: ErrorKind, _: std::str::Utf8Error) -> Self {
        Self::BadUtf8
    }
}

impl<'a> FromExternalError<&'a [u8], TableError> for WireError {
    fn from_external_error(_: &'a [u8], _: ErrorKind, error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<nom::Err<Self>> for WireError {
    fn from(error: nom::Err<Self>) -> Self {
        match error {
            nom::Err::Error(error) | nom::Err::Failure(error) => error,
            nom::Err::Incomplete(_) => Self::Length,
        }
    }
}

/// Reads values off the front of a delimited slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet the next bit comes from, valid while `bit_next` is within it.
    bits: u8,
    bit_next: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, bits: 0, bit_next: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// All that was not read.
    pub(super) fn into_rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading: nothing may be left.
    pub(super) fn finish(mut self) -> Result<(), WireError> {
        self.take(all_consuming(success(())))
    }

    pub(super) fn bit(&mut self) -> Result<bool, WireError> {
        if self.bit_next == 0 {
            self.bits = self.octet()?;
        }
        let bit = self.bits & (1 << self.bit_next) != 0;
        self.bit_next = (self.bit_next + 1) % BITS_PER_OCTET;
        Ok(bit)
    }

    pub(super) fn octet(&mut self) -> Result<u8, WireError> {
        self.take(big_endian.map(u8::from_be_bytes))
    }

    pub(super) fn short(&mut self) -> Result<u16, WireError> {
        self.take(big_endian.map(u16::from_be_bytes))
    }

    pub(super) fn long(&mut self) -> Result<u32, WireError> {
        self.take(big_endian.map(u32::from_be_bytes))
    }

    pub(super) fn longlong(&mut self) -> Result<u64, WireError> {
        self.take(big_endian.map(u64::from_be_bytes))
    }

    /// A shortstr that must be UTF-8.
    pub(super) fn shortstr(&mut self) -> Result<&'a str, WireError> {
        self.take(map_res(length_data(big_endian.map(u8::from_be_bytes)), str::from_utf8))
    }

    /// A shortstr as it came.
    pub(super) fn shortbytes(&mut self) -> Result<&'a [u8], WireError> {
        self.take(length_data(big_endian.map(u8::from_be_bytes)))
    }

    /// So many octets without a length before them.
    pub(super) fn octets(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        self.take(take(count))
    }

    pub(super) fn longstr(&mut self) -> Result<&'a [u8], WireError> {
        self.take(length_data(big_endian.map(u32::from_be_bytes)))
    }

    pub(super) fn table(&mut self) -> Result<Table<'a>, WireError> {
        self.take(map_res(length_data(big_endian.map(u32::from_be_bytes)), Table::parse))
    }

    #[inline]
    fn take<P>(&mut self, mut parser: P) -> Result<P::Output, WireError>
    where
        P: Parser<&'a [u8], Error = WireError>,
    {
        let (rest, value) = parser.parse_complete(self.rest)?;
        self.rest = rest;
        self.bit_next = 0;
        Ok(value)
    }
}

/// The octets of an integer in one piece; nom's own parsers gather them one by one.
#[inline]
fn big_endian<const OCTETS: usize>(input: &[u8]) -> IResult<&[u8], [u8; OCTETS], WireError> {
    let (octets, rest) = input.split_first_chunk().ok_or(nom::Err::Error(WireError::Length))?;
    Ok((rest, *octets))
}

/// Appends values to a buffer.
pub(super) struct Writer<'a> {
    out: &'a mut BytesMut,
    bit_next: u8,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut) -> Self {
        Self { out, bit_next: 0 }
    }

    pub(super) fn bit(&mut self, bit: bool) {
        if self.bit_next == 0 {
            self.out.put_u8(bit.into());
        } else if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(bit) << self.bit_next;
        }
        self.bit_next = (self.bit_next + 1) % BITS_PER_OCTET;
    }

    pub(super) fn octet(&mut self, value: u8) {
        self.aligned().put_u8(value);
    }

    pub(super) fn short(&mut self, value: u16) {
        self.aligned().put_u16(value);
    }

    pub(super) fn long(&mut self, value: u32) {
        self.aligned().put_u32(value);
    }

    pub(super) fn longlong(&mut self, value: u64) {
        self.aligned().put_u64(value);
    }

    pub(super) fn shortstr(&mut self, text: &str) {
        let cut = text.floor_char_boundary(SHORTSTR_BYTES_MAX);
        self.shortbytes(text.as_bytes().get(..cut).unwrap_or_default());
    }

    pub(super) fn shortbytes(&mut self, bytes: &[u8]) {
        put_shortbytes(self.aligned(), bytes);
    }

    pub(super) fn longstr(&mut self, bytes: &[u8]) {
        put_longstr(self.aligned(), bytes);
    }

    pub(super) fn table(&mut self, table: Table<'_>) {
        put_longstr(self.aligned(), table.as_bytes());
    }

    /// The buffer, at an octet of its own for the next value.
    fn aligned(&mut self) -> &mut BytesMut {
        self.bit_next = 0;
        self.out
    }
}

/// Appends a shortstr, cut to the 255 bytes one can hold.
pub(super) fn put_shortbytes(out: &mut impl BufMut, bytes: &[u8]) {
    let cut = bytes.get(..SHORTSTR_BYTES_MAX).unwrap_or(bytes);
    out.put_u8(cut.len().try_into().unwrap_or(u8::MAX));
    out.put_slice(cut);
}

/// Appends a longstr.
///
/// # Panics
///
/// With 4 GiB or more, which no frame can carry.
pub(super) fn put_longstr(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32(bytes.len().try_into().expect("a longstr is smaller than a frame"));
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{Reader, WireError, Writer};

    #[test]
    fn bits_share_octets_until_another_type_comes() {
        let bits = [true, false, true, true, false, false, false, true, false, true];
        let mut out = BytesMut::new();
        let mut writer = Writer::new(&mut out);
        bits.iter().for_each(|&bit| writer.bit(bit));
        writer.octet(7);
        writer.bit(true);
        assert_eq!(out, [0b1000_1101, 0b10, 7, 1].as_slice());

        let mut reader = Reader::new(&out);
        bits.iter().for_each(|&bit| assert_eq!(reader.bit(), Ok(bit)));
        assert_eq!(reader.octet(), Ok(7));
        assert_eq!(reader.bit(), Ok(true));
        assert_eq!(reader.bit(), Ok(false));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_length_beyond_the_slice_is_an_error() {
        assert_eq!(Reader::new(&[2, 0]).shortstr(), Err(WireError::Length));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0]).longstr(), Err(WireError::Length));
        assert_eq!(Reader::new(&[1]).finish(), Err(WireError::Length));
    }

    #[test]
    fn only_text_must_be_utf8() {
        assert_eq!(Reader::new(&[1, 0xff]).shortstr(), Err(WireError::BadUtf8));
        assert_eq!(Reader::new(&[1, 0xff]).shortbytes(), Ok([0xff].as_slice()));
    }
}
