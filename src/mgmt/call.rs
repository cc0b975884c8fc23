//! A request as a handler sees it: checked, with who asks.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde_json::Value;

use crate::auth::users::User;
use crate::broker::vhost::Vhost;
use crate::mgmt::Mgmt;
use crate::mgmt::access;
use crate::mgmt::answer::Refusal;
use crate::mgmt::places::Places;

/// A request.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// What all share.
    pub(crate) mgmt: &'a Mgmt,
    /// Where answers have their room.
    pub(crate) places: &'a Places,
    /// Who asks: somebody, unless the route is for everyone.
    pub(crate) user: Option<Arc<User>>,
    /// The parts of the path, as the route names them.
    pub(crate) parts: Vec<(String, String)>,
    /// What stands behind the question mark.
    pub(crate) query: Vec<(String, String)>,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: axum::body::Bytes,
}

impl Call<'_> {
    /// A part of the path.
    pub(crate) fn part(&self, name: &str) -> &str {
        self.parts.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    /// A value of the query; of several the first.
    pub(crate) fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether a value of the query says yes.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.asked(name).is_some_and(|value| value == "true" || value == "1")
    }

    /// Who asks.
    ///
    /// # Errors
    /// Nobody does, which a route that calls this does not let in.
    pub(crate) fn user(&self) -> Result<&Arc<User>, Refusal> {
        self.user.as_ref().ok_or_else(Refusal::login_failed)
    }

    /// The virtual host of the path.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn vhost(&self) -> Result<Arc<Vhost>, Refusal> {
        self.mgmt.broker.vhost(self.part("vhost")).ok_or_else(Refusal::not_found)
    }

    /// The virtual hosts whose contents the user may see, in order of their names.
    pub(crate) fn visible_vhosts(&self) -> Vec<Arc<Vhost>> {
        let mut vhosts = self.mgmt.broker.vhosts();
        vhosts.retain(|vhost| self.sees(vhost));
        vhosts
    }

    /// Whether the user may see what is in it.
    pub(crate) fn sees(&self, vhost: &Vhost) -> bool {
        self.sees_all() || self.may_open(vhost.name())
    }

    /// Whether the user sees what others have.
    pub(crate) fn sees_all(&self) -> bool {
        self.user.as_deref().is_some_and(access::is_monitor)
    }

    /// Whether the user administers the node.
    pub(crate) fn is_administrator(&self) -> bool {
        self.user.as_deref().is_some_and(access::is_administrator)
    }

    fn may_open(&self, vhost: &str) -> bool {
        self.user.as_ref().is_some_and(|user| user.may_open(vhost))
    }

    /// The body as an object; one that is not there is empty.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn object(&self) -> Result<serde_json::Map<String, Value>, Refusal> {
        if self.body.is_empty() {
            return Ok(serde_json::Map::new());
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(Refusal::bad_request("the body is no JSON object")),
            Err(_) => Err(Refusal::bad("not_json", "the body is not JSON")),
        }
    }
}
