//! What a start has found of what administrators said is what it was.

use crate::broker::Broker;
use crate::broker::admin::parameters::{PERMISSION, TOPIC_PERMISSION, USER, USER_LIMITS, VHOST};
use crate::message::definitions::Definitions;
use crate::message::fact::Definition;

impl Broker {
    /// Makes users and virtual hosts, before anything is made in those. Whether there were any.
    pub(in crate::broker) fn restore_parameters(&self, definitions: &Definitions) -> bool {
        for definition in definitions.iter() {
            match definition {
                Definition::ParameterSet { parameter, value } => self.parameters.restore(parameter, value),
                // They come first.
                _ => break,
            }
        }
        let of_broker = |component| self.parameters.of("", component, "");
        of_broker(VHOST).iter().for_each(|kept| self.restore_vhost(kept));
        of_broker(USER).iter().for_each(|kept| self.restore_user(kept));
        of_broker(USER_LIMITS).iter().for_each(|kept| self.restore_user_limits(kept));
        of_broker(PERMISSION).iter().for_each(|kept| self.restore_permissions(kept));
        of_broker(TOPIC_PERMISSION).iter().for_each(|kept| self.restore_topic_permissions(kept));
        for vhost in self.vhosts() {
            self.restore_policies(&vhost);
            self.restore_vhost_limits(&vhost);
        }
        !of_broker(VHOST).is_empty()
    }
}
