//! Policies come, change and go, and queues and exchanges follow them.

use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::admin::parameters::{Changing, Kept, OPERATOR_POLICY, POLICY, check_value};
use crate::broker::admin::{AdminError, Rest, Undertaking, check_name};
use crate::broker::policy::{Author, Policies, Policy, check_definition};
use crate::broker::vhost::Vhost;
use crate::message::fact::Parameter;
use crate::protocol::table::Table;

/// A virtual host has no more policies: each declaration is compared with all.
const POLICIES_MAX: usize = 1000;

/// What a policy is to be.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// A regular expression over names.
    pub pattern: &'a str,
    /// What it applies to, as it is written.
    pub apply_to: &'a str,
    /// The highest one wins.
    pub priority: i64,
    /// What it says.
    pub definition: Table<'a>,
}

impl Broker {
    /// Sets a policy: queues and exchanges follow it when all of the undertaking is done.
    ///
    /// # Errors
    /// All that is wrong with it, in RabbitMQ's words.
    pub fn set_policy(
        &self,
        author: Author,
        vhost: &str,
        request: &PolicyRequest<'_>,
    ) -> Result<Undertaking, AdminError> {
        check_name(request.name)?;
        let policy = check(author, request)?;
        let value = policy.to_table();
        check_value(value.as_table())?;
        let mut changing = self.change_parameters();
        let home = self.vhost(vhost).ok_or(AdminError::NotFound)?;
        let policies = home.policies().with(author, policy);
        if policies.len() > POLICIES_MAX {
            return Err(AdminError::Invalid(format!("more than {POLICIES_MAX} policies in vhost '{vhost}'")));
        }
        let parameter = Parameter { vhost, component: component(author), name: request.name };
        let set = |changing: &mut Changing<'_>| Ok(changing.set(parameter, value.as_table(), || {}));
        Self::with_policies(&mut changing, &home, policies, set)
    }

    /// Takes a policy away; the rest is as with [`Broker::set_policy`].
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn clear_policy(&self, author: Author, vhost: &str, name: &str) -> Result<Undertaking, AdminError> {
        let mut changing = self.change_parameters();
        let home = self.vhost(vhost).ok_or(AdminError::NotFound)?;
        let policies = home.policies().without(author, name);
        let parameter = Parameter { vhost, component: component(author), name };
        Self::with_policies(&mut changing, &home, policies, |changing| changing.clear(parameter, || {}))
    }

    fn with_policies(
        changing: &mut Changing<'_>,
        vhost: &Arc<Vhost>,
        policies: Policies,
        tell: impl FnOnce(&mut Changing<'_>) -> Result<Undertaking, AdminError>,
    ) -> Result<Undertaking, AdminError> {
        let told = tell(changing)?;
        let following = vhost.set_policies(policies);
        Ok(Undertaking { rest: Some(Rest::Following(following)), ..told })
    }

    /// All policies of a virtual host, before anything is made in it.
    pub(super) fn restore_policies(&self, vhost: &Vhost) {
        let mut policies = Policies::default();
        for author in [Author::User, Author::Operator] {
            for kept in self.parameters.of(vhost.name(), component(author), "") {
                match Policy::from_table(&kept.name, kept.value()) {
                    Ok(policy) => policies = policies.with(author, policy),
                    Err(error) => complain(&kept, &error),
                }
            }
        }
        vhost.restore_policies(policies);
    }
}

fn complain(kept: &Kept, error: &str) {
    tracing::error!(vhost = ?kept.vhost, policy = ?kept.name, error, "a policy is left out");
}

fn component(author: Author) -> &'static str {
    match author {
        Author::User => POLICY,
        Author::Operator => OPERATOR_POLICY,
    }
}

/// Whether a policy can be set. Everything that is wrong is said at once.
///
/// # Errors
/// In RabbitMQ's words.
pub fn check_policy(author: Author, request: &PolicyRequest<'_>) -> Result<(), AdminError> {
    check_name(request.name)?;
    check(author, request).map(drop)
}

fn check(author: Author, request: &PolicyRequest<'_>) -> Result<Policy, AdminError> {
    let mut wrong = String::new();
    if request.definition.is_empty() {
        wrong.push_str("no policy provided\n");
    } else if let Err(what) = check_definition(author, request.definition) {
        wrong.push_str(&what);
    }
    let apply_to = request.apply_to.parse();
    if apply_to.is_err() {
        let expected =
            "should be 'queues', 'classic_queues', 'quorum_queues', 'streams', 'exchanges' or 'all'";
        wrong.push_str(&format!("apply-to '{}' unrecognised; {expected}\n", request.apply_to));
    }
    let policy = Policy::new(
        request.name,
        request.pattern,
        apply_to.unwrap_or_default(),
        request.priority,
        request.definition,
    );
    match policy {
        Ok(policy) if wrong.is_empty() => return Ok(policy),
        Ok(_) => {}
        Err(reason) => {
            wrong.push_str(&format!("pattern should be regular expression but is invalid: {reason}\n"));
        }
    }
    Err(AdminError::Invalid(format!("Validation failed\n\n{wrong}")))
}
