//! What is written in a certificate: whose it is, who says so, for how long, and who logs in by it.
//!
//! Names are written as RabbitMQ does, so that the users of its clients' certificates keep their names.
// RFC 5280 §4.1, RFC 4514

use x509_parser::asn1_rs::{Any, BmpString, FromDer, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

use crate::config::{LoginFrom, SanType};

const COMMON_NAME: &str = "2.5.4.3";

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
#[derive(Clone, Debug)]
pub(super) struct Certificate<'a>(X509Certificate<'a>);

/// A moment that a certificate names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(ASN1Time);

impl<'a> Certificate<'a> {
    /// Takes one apart; `None` where it is none.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        X509Certificate::from_der(der).ok().map(|(_, certificate)| Self(certificate))
    }

    /// Whose it is.
    pub(super) fn subject(&self) -> String {
        distinguished_name(self.0.subject())
    }

    /// Who says so.
    pub(super) fn issuer(&self) -> String {
        distinguished_name(self.0.issuer())
    }

    /// From when on, and until when.
    pub(super) fn validity(&self) -> [Moment; 2] {
        let validity = self.0.validity();
        [validity.not_before, validity.not_after].map(Moment)
    }

    /// Who logs in by it, where that is written there.
    pub(super) fn login(&self, from: LoginFrom, kind: SanType) -> Option<String> {
        let subject = self.0.subject();
        let name = match from {
            // Of two that differ in what is no text nobody could tell which it is.
            LoginFrom::DistinguishedName if subject.iter_attributes().any(|part| value(part).is_none()) => {
                return None;
            }
            LoginFrom::DistinguishedName => self.subject(),
            LoginFrom::CommonName => {
                let named = subject.iter_attributes().filter(|part| identifier(part) == COMMON_NAME);
                named.map(value).collect::<Option<Vec<_>>>()?.join(",")
            }
            LoginFrom::SubjectAlternativeName => self.alternative_name(kind)?,
        };
        Some(name).filter(|name| !name.is_empty())
    }

    fn alternative_name(&self, kind: SanType) -> Option<String> {
        let names = &self.0.subject_alternative_name().ok()??.value.general_names;
        let name = names.iter().find_map(|name| match (kind, name) {
            (SanType::Email, GeneralName::RFC822Name(name))
            | (SanType::Dns, GeneralName::DNSName(name))
            | (SanType::Uri, GeneralName::URI(name)) => Some(*name),
            _ => None,
        });
        name.map(str::to_owned)
    }
}

fn identifier(part: &AttributeTypeAndValue<'_>) -> String {
    part.attr_type().to_id_string()
}

/// `None` where it is no text of a kind that names have.
fn value(part: &AttributeTypeAndValue<'_>) -> Option<String> {
    text(part.attr_value())
}

fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            String::from_utf8(value.data.to_vec()).ok()
        }
        Tag::TeletexString => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => BmpString::try_from(value).ok().map(|text| text.string()),
        _ => None,
    }
}

/// The last part first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let of_set = |set: &RelativeDistinguishedName<'_>| set.iter().map(shown).collect::<Vec<_>>().join("+");
    let mut sets: Vec<_> = name.iter_rdn().map(of_set).collect();
    sets.reverse();
    sets.join(",")
}

fn shown(part: &AttributeTypeAndValue<'_>) -> String {
    let identifier = identifier(part);
    let known = PARTS.iter().find(|(known, _)| *known == identifier);
    let called = known.map_or(identifier.as_str(), |(_, called)| called);
    format!("{called}={}", escaped(&value(part).unwrap_or_default()))
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
    /// As people read it.
    pub(super) fn shown(self) -> String {
        // One that was written for another place is the same moment here.
        let at = ASN1Time::from_timestamp(self.0.timestamp()).unwrap_or(self.0).to_datetime();
        let month = u8::from(at.month());
        let (hour, minute, second) = at.to_hms();
        format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", at.year(), at.day())
    }

    /// In milliseconds since 1970; 0 before.
    pub(super) fn unix_ms(self) -> u64 {
        u64::try_from(self.0.timestamp()).unwrap_or(0) * 1000
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType as San};

    use super::{ASN1Time, Any, Certificate, FromDer, Moment, escaped, text};
    use crate::config::{LoginFrom, SanType};

    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, content.len() as u8], content].concat()
    }

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
        for (tag, written, unix_ms, shown) in [
            (UTC_TIME, "700101000000Z", 0, "1970-01-01T00:00:00Z"),
            (UTC_TIME, "000229120000Z", 951_825_600_000, "2000-02-29T12:00:00Z"),
            (GENERALIZED_TIME, "20261201122602Z", 1_796_127_962_000, "2026-12-01T12:26:02Z"),
            (UTC_TIME, "491231235959Z", 2_524_607_999_000, "2049-12-31T23:59:59Z"),
            (UTC_TIME, "500101000000Z", 0, "1950-01-01T00:00:00Z"),
            (UTC_TIME, "700101010000+0100", 0, "1970-01-01T00:00:00Z"),
        ] {
            let moment = Moment(ASN1Time::from_der(&der(tag, written.as_bytes())).unwrap().1);
            assert_eq!((moment.unix_ms(), moment.shown().as_str()), (unix_ms, shown), "{written}");
        }
    }

    #[test]
    fn texts_are_of_the_kinds_that_names_have() {
        for (tag, content, expected) in [
            (0x0c, "€".as_bytes(), Some("€")),
            (0x0c, &[0xff], None),
            (0x13, b"orders", Some("orders")),
            (0x14, &[0xe4], Some("ä")),
            (0x16, b"a@b", Some("a@b")),
            (0x1e, &[0x20, 0xac], Some("€")),
            (0x30, b"", None),
        ] {
            let der = der(tag, content);
            // What the library does not let pass is no text either.
            let read = Any::from_der(&der).ok().and_then(|(_, any)| text(&any));
            assert_eq!(read.as_deref(), expected, "{tag:#x} {content:?}");
        }
    }
}
