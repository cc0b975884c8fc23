//! What only the process around the broker can do, and lends to the API: change what is logged, and end.

use std::fmt::{self, Debug};
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use crate::config::LogLevel;
use crate::mgmt::answer::Refusal;

/// What an administrator asks the process for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To end, as it does at a signal.
    Stop,
    /// To let go of the broker and everything that is served, and stay.
    StopApp,
    /// To start the broker again.
    StartApp,
}

/// What reads settings' files anew.
pub type Reload = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the process lends. One that lends nothing does nothing of it.
#[derive(Clone)]
pub struct Control {
    /// Where what is asked for goes.
    pub asks: UnboundedSender<Ask>,
    /// Whether somebody can start the broker again: there is a socket for it.
    pub can_rest: bool,
    /// What the node is called, also while no broker runs.
    pub node_name: Arc<str>,
    /// Changes the least important level that is logged.
    pub log_level: fn(LogLevel),
    /// Reads anew what can be while the broker runs; the error is a sentence, and then all is as it was.
    pub reload: Reload,
}

impl Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Asks for something.
    ///
    /// # Errors
    /// The process ends already, or nobody could start the broker again.
    pub(crate) fn ask(&self, ask: Ask) -> Result<(), Refusal> {
        if ask == Ask::StopApp && !self.can_rest {
            return Err(Refusal::bad_request(
                "there is no socket by which the broker could be started again",
            ));
        }
        self.asks.send(ask).map_err(|_| Refusal::unavailable())
    }
}
