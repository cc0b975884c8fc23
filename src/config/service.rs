//! Where something beside AMQP is served: where the person said, nowhere, or at its usual place when nobody said.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

use crate::config::endpoint::Endpoint;

/// The word for nowhere.
pub const NOWHERE: &str = "none";

/// Where the management API is when nobody says otherwise.
pub const MGMT_DEFAULT: &str = "127.0.0.1:15672";

/// Where metrics are when nobody says otherwise.
pub const PROMETHEUS_DEFAULT: &str = "127.0.0.1:15692";

/// A place to serve something at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// At its usual place, if that is free: whoever runs another broker beside this one has said nothing wrong.
    #[default]
    Usual,
    /// There, or not at all: a start fails when it cannot be.
    At(Endpoint),
    /// Not served.
    Nowhere,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == NOWHERE {
            return Ok(Self::Nowhere);
        }
        text.parse().map(Self::At).map_err(|why: String| format!("{why}; \"{NOWHERE}\" switches it off"))
    }
}

impl Service {
    /// As it is written, where `usual` is its usual place.
    pub(super) fn show(&self, usual: &str) -> String {
        match self {
            Self::Usual => usual.to_owned(),
            Self::At(endpoint) => endpoint.to_string(),
            Self::Nowhere => NOWHERE.to_owned(),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show("its usual place"))
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
