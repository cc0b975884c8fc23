//! What is told of requests that change something: who asked, for what, and whether they got it.

use crate::auth::users::User;
use crate::broker::audit::{Audit, Request};
use crate::clock::Now;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::places::Work;
use crate::mgmt::routes::{Route, Verb};

/// Routes in whose bodies there is never a secret: what is asked for is in them, and is told as well.
const TOLD: [&str; 10] = [
    "/api/permissions/{vhost}/{user}",
    "/api/topic-permissions/{vhost}/{user}",
    "/api/policies/{vhost}/{name}",
    "/api/operator-policies/{vhost}/{name}",
    "/api/users/{user}/tags",
    "/api/users/bulk-delete",
    "/api/user-limits/{user}/{name}",
    "/api/vhost-limits/{vhost}/{name}",
    "/api/process/memory-watermark",
    "/api/process/disk-free-limit",
];

/// Whether requests of this route are told of. Those by which messages come and go are not.
pub(crate) fn is_told(route: &Route) -> bool {
    route.work == Work::Changing && route.verb != Verb::Get
}

/// Tells what somebody asked for, and what came of it.
pub(crate) fn tell(
    audit: &Audit,
    route: &Route,
    user: Option<&User>,
    path: &str,
    body: &[u8],
    answered: &Result<Answer, Refusal>,
) {
    let body = String::from_utf8_lossy(body);
    let status = match answered {
        Ok(answer) => answer.status(),
        Err(refusal) => refusal.status(),
    };
    let request = Request {
        user: user.map_or("", |user| &user.name),
        verb: route.verb.name(),
        path,
        // What makes no sense may be anything, and be meant for another route.
        body: Some(&*body).filter(|body| answered.is_ok() && TOLD.contains(&route.path) && !body.is_empty()),
        status: status.as_u16(),
    };
    audit.request(request, Now::read().instant);
}

#[cfg(test)]
mod tests {
    use super::TOLD;
    use crate::mgmt::routes::{ROUTES, Verb};

    #[test]
    fn what_is_told_is_a_route_that_changes_something() {
        for path in TOLD {
            assert!(ROUTES.iter().any(|route| route.path == path && route.verb != Verb::Get), "{path}");
        }
    }
}
