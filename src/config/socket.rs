//! Where the socket is that this machine's administrators come by.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};

use crate::config::service::NOWHERE;

/// What the socket is called in the data directory.
const NAME: &str = "ctl.sock";

/// A place for the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalSocket {
    /// In the data directory.
    #[default]
    Usual,
    /// There, or not at all: a start fails when it cannot be.
    At(PathBuf),
    /// There is none.
    Nowhere,
}

impl LocalSocket {
    /// The socket's path, for a broker with this data directory. Without a place of its own one that has none has no
    /// socket.
    pub fn path(&self, data_dir: Option<&Path>) -> Option<PathBuf> {
        match self {
            Self::Usual => data_dir.map(|dir| dir.join(NAME)),
            Self::At(path) => Some(path.clone()),
            Self::Nowhere => None,
        }
    }

    /// As it is written, if anything was said.
    pub(super) fn show(&self) -> Option<String> {
        match self {
            Self::Usual => None,
            Self::At(path) => Some(path.display().to_string()),
            Self::Nowhere => Some(NOWHERE.to_owned()),
        }
    }
}

impl FromStr for LocalSocket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text.trim() == NOWHERE { Self::Nowhere } else { Self::At(PathBuf::from(text)) })
    }
}

impl<'de> Deserialize<'de> for LocalSocket {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|never: Infallible| match never {})
    }
}
