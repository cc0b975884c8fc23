//! What is written in a certificate: whose it is, who says so, for how long, and who logs in by it.
//!
//! Names are written as RabbitMQ does, so that the users of its clients' certificates keep their names.
// RFC 5280 §4.1, RFC 4514

use crate::config::{LoginFrom, SanType};
use crate::tls::der::{BOOLEAN, GENERALIZED_TIME, INTEGER, Reader, SEQUENCE, UTC_TIME, dotted, text};

const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: &str = "2.5.4.3";
const SUBJECT_ALTERNATIVE_NAME: &str = "2.5.29.17";

/// What parts of a name are called; others are their identifiers.
const PARTS: [(&str, &str); 17] = [
    (COMMON_NAME, "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "TITLE"),
    ("2.5.4.42", "GIVENNAME"),
    ("2.5.4.43", "INITIALS"),
    ("2.5.4.44", "GENERATIONQUALIFIER"),
    ("2.5.4.65", "PSEUDONYM"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAILADDRESS"),
];

/// A certificate, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Certificate<'a> {
    issuer: Reader<'a>,
    validity: [Moment; 2],
    subject: Reader<'a>,
    extensions: Reader<'a>,
}

/// A moment that a certificate names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    date: [u32; 3],
    time: [u32; 3],
}

impl<'a> Certificate<'a> {
    /// Takes one apart; `None` where it is none.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut body = Reader(der).take(SEQUENCE)?.take(SEQUENCE)?;
        body.take_if(VERSION);
        body.take(INTEGER)?;
        body.take(SEQUENCE)?;
        let issuer = body.take(SEQUENCE)?;
        let mut validity = body.take(SEQUENCE)?;
        let validity = [Moment::parse(validity.next()?)?, Moment::parse(validity.next()?)?];
        let subject = body.take(SEQUENCE)?;
        let extensions = body.all().find(|(tag, _)| *tag == EXTENSIONS);
        let extensions = match extensions {
            Some((_, content)) => Reader(content).take(SEQUENCE)?,
            None => Reader(&[]),
        };
        Some(Self { issuer, validity, subject, extensions })
    }

    /// Whose it is.
    pub(super) fn subject(&self) -> String {
        distinguished_name(self.subject)
    }

    /// Who says so.
    pub(super) fn issuer(&self) -> String {
        distinguished_name(self.issuer)
    }

    /// From when on, and until when.
    pub(super) fn validity(&self) -> [Moment; 2] {
        self.validity
    }

    /// Who logs in by it, where that is written there.
    pub(super) fn login(&self, from: LoginFrom, kind: SanType) -> Option<String> {
        let name = match from {
            // Of two that differ in what is no text nobody could tell which it is.
            LoginFrom::DistinguishedName if parts(self.subject).any(|part| part.value.is_none()) => {
                return None;
            }
            LoginFrom::DistinguishedName => self.subject(),
            LoginFrom::CommonName => {
                let named = parts(self.subject).filter(|part| part.identifier == COMMON_NAME);
                named.map(|part| part.value).collect::<Option<Vec<_>>>()?.join(",")
            }
            LoginFrom::SubjectAlternativeName => self.alternative_name(kind)?,
        };
        Some(name).filter(|name| !name.is_empty())
    }

    fn alternative_name(&self, kind: SanType) -> Option<String> {
        let wanted = match kind {
            SanType::Email => 0x81,
            SanType::Dns => 0x82,
            SanType::Uri => 0x86,
        };
        let names = self.extensions.all().find_map(|(_, extension)| {
            let mut extension = Reader(extension);
            let is_it = dotted(extension.take(OBJECT_IDENTIFIER)?.0) == SUBJECT_ALTERNATIVE_NAME;
            extension.take_if(BOOLEAN);
            extension.take(OCTET_STRING).filter(|_| is_it)
        })?;
        let mut names = { names }.take(SEQUENCE)?.all();
        let (_, name) = names.find(|(tag, _)| *tag == wanted)?;
        String::from_utf8(name.to_vec()).ok()
    }
}

/// One of a name's parts.
struct Part {
    identifier: String,
    /// `None` where it is no text.
    value: Option<String>,
}

impl Part {
    fn parse(content: &[u8]) -> Option<Self> {
        let mut part = Reader(content);
        let identifier = dotted(part.take(OBJECT_IDENTIFIER)?.0);
        let (tag, value) = part.next()?;
        Some(Self { identifier, value: text(tag, value) })
    }

    fn shown(&self) -> String {
        let known = PARTS.iter().find(|(identifier, _)| *identifier == self.identifier);
        let called = known.map_or(self.identifier.as_str(), |(_, called)| called);
        format!("{called}={}", escaped(self.value.as_deref().unwrap_or_default()))
    }
}

fn parts(name: Reader<'_>) -> impl Iterator<Item = Part> {
    let sets = name.all().filter(|(tag, _)| *tag == SET);
    sets.flat_map(|(_, set)| Reader(set).all()).filter_map(|(_, part)| Part::parse(part))
}

/// The last part first.
fn distinguished_name(name: Reader<'_>) -> String {
    let of_set = |set| {
        let shown = Reader(set).all().filter_map(|(_, part)| Some(Part::parse(part)?.shown()));
        shown.collect::<Vec<_>>().join("+")
    };
    let mut sets: Vec<_> = name.all().map(|(_, set)| of_set(set)).collect();
    sets.reverse();
    sets.join(",")
}

/// As RabbitMQ escapes: what RFC 4514 wants, and all that is not printable ASCII.
fn escaped(value: &str) -> String {
    let (mut shown, last) = (String::new(), value.len().saturating_sub(1));
    for (place, octet) in value.bytes().enumerate() {
        let is_edge = (place == 0 && b" #".contains(&octet)) || (place == last && octet == b' ');
        match octet {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => shown.extend(['\\', char::from(octet)]),
            _ if is_edge => shown.extend(['\\', char::from(octet)]),
            32..126 => shown.push(char::from(octet)),
            _ => shown.push_str(&format!("\\{octet:02X}")),
        }
    }
    shown
}

impl Moment {
    fn parse((tag, content): (u8, &[u8])) -> Option<Self> {
        let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let year: u32 = digits.get(..2)?.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, digits.get(2..)?)
            }
            GENERALIZED_TIME => (digits.get(..4)?.parse().ok()?, digits.get(4..)?),
            _ => return None,
        };
        let two = |at: usize| rest.get(at..at + 2)?.parse::<u32>().ok();
        let (month, day) = (two(0)?, two(2)?);
        let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && rest.len() == 10;
        is_date.then_some(Self { date: [year, month, day], time: [two(4)?, two(6)?, two(8)?] })
    }

    /// As people read it.
    pub(super) fn shown(self) -> String {
        let ([year, month, day], [hour, minute, second]) = (self.date, self.time);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// In milliseconds since 1970; 0 before.
    pub(super) fn unix_ms(self) -> u64 {
        let ([year, month, day], [hour, minute, second]) =
            (self.date.map(i64::from), self.time.map(i64::from));
        // A year that begins with March has its leap day at the end.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
        let seconds = (days - DAYS_TO_1970) * 86_400 + hour * 3600 + minute * 60 + second;
        u64::try_from(seconds).unwrap_or(0) * 1000
    }
}

/// From the first of March of the year 0 to the first of January 1970.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType as San};

    use super::{Certificate, Moment, escaped};
    use crate::config::{LoginFrom, SanType};
    use crate::tls::der::{GENERALIZED_TIME, UTC_TIME};

    #[test]
    fn who_logs_in_is_where_the_setting_says() {
        let mut params =
            CertificateParams::new(vec!["first.example.com".to_owned(), "second.example.com".to_owned()])
                .unwrap();
        let uri = "spiffe://example.com/orders".try_into().unwrap();
        let email = "orders@example.com".try_into().unwrap();
        params.subject_alt_names.extend([San::URI(uri), San::Rfc822Name(email)]);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.distinguished_name.push(DnType::OrganizationName, "Räder, Söhne");
        params
            .distinguished_name
            .push(DnType::CommonName, DnValue::PrintableString("orders".try_into().unwrap()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::parse(certificate.der()).unwrap();
        assert_eq!(read.subject(), "CN=orders,O=R\\C3\\A4der\\, S\\C3\\B6hne,C=DE");
        assert_eq!(read.issuer(), read.subject());
        let login = |from, kind| read.login(from, kind);
        assert_eq!(login(LoginFrom::DistinguishedName, SanType::Dns), Some(read.subject()));
        assert_eq!(login(LoginFrom::CommonName, SanType::Dns).as_deref(), Some("orders"));
        for (kind, name) in [
            (SanType::Dns, "first.example.com"),
            (SanType::Email, "orders@example.com"),
            (SanType::Uri, "spiffe://example.com/orders"),
        ] {
            assert_eq!(login(LoginFrom::SubjectAlternativeName, kind).as_deref(), Some(name));
        }
        let [from, until] = read.validity().map(Moment::shown);
        assert_eq!((from.as_str(), until.as_str()), ("1975-01-01T00:00:00Z", "4096-01-01T00:00:00Z"));
    }

    #[test]
    fn a_name_that_is_not_there_is_nobodys() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::parse(certificate.der()).unwrap();
        for from in [LoginFrom::DistinguishedName, LoginFrom::CommonName, LoginFrom::SubjectAlternativeName] {
            assert_eq!(read.login(from, SanType::Dns), None, "{from}");
        }
        let der = certificate.der();
        for cut in 0..der.len() {
            assert!(Certificate::parse(&der[..cut]).is_none(), "{cut} octets are no certificate");
        }
    }

    #[test]
    fn what_would_be_read_otherwise_is_escaped() {
        for (value, shown) in [
            ("a", "a"),
            (" a ", "\\ a\\ "),
            ("#1", "\\#1"),
            ("a=b+c", "a=b\\+c"),
            ("~\u{1}", "\\7E\\01"),
            ("", ""),
        ] {
            assert_eq!(escaped(value), shown, "{value:?}");
        }
    }

    #[test]
    fn moments_are_counted_from_1970() {
        for (tag, written, unix_ms) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "000229120000Z", 951_825_600_000),
            (GENERALIZED_TIME, "20261201122602Z", 1_796_127_962_000),
            (UTC_TIME, "491231235959Z", 2_524_607_999_000),
            (UTC_TIME, "500101000000Z", 0),
        ] {
            assert_eq!(Moment::parse((tag, written.as_bytes())).unwrap().unix_ms(), unix_ms, "{written}");
        }
        for wrong in ["", "Z", "700101000000", "701301000000Z", "7001010000Z", "70010100000xZ"] {
            assert!(Moment::parse((UTC_TIME, wrong.as_bytes())).is_none(), "{wrong}");
        }
    }
}
