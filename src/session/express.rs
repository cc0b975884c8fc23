//! The commonest frames several at a time: publishes that are whole, and acknowledgements in a row.
//!
//! What is not recognised here goes the way of every frame ([`super::running`]), and so does what must be refused
//! before it is a publish or an acknowledgement at all.

use crate::message::block::SMALL_BODY_BYTES_MAX;
use crate::protocol::express::{AckRow, PublishReader};
use crate::session::channel::{Channel, PUBLISH_ID};
use crate::session::link::Link;
use crate::session::refuse::Refusal;
use crate::session::running::{Failure, Running, Slot};

const ACK_ID: (u16, u16) = (60, 80);

impl Running {
    /// Takes publishes and acknowledgements off the front of `input`, as long as nothing else comes between; `at`
    /// rises by what was taken.
    ///
    /// # Errors
    /// As [`Running::on_frame`].
    pub fn take_express(&mut self, input: &[u8], at: &mut usize) -> Result<(), Failure> {
        while self.takes_frames()
            && let Some(rest) = input.get(*at..)
        {
            let before = *at;
            match rest.first_chunk() {
                Some(&[1, _, _, _, _, _, _, 0, 60, 0, 40]) if !self.holds_content() => {
                    self.take_publishes(input, at)?;
                }
                Some(&[1, _, _, _, _, _, _, 0, 60, 0, 80]) => self.take_acks(rest, at)?,
                _ => {}
            }
            if *at == before {
                break;
            }
        }
        Ok(())
    }

    fn take_publishes(&mut self, input: &[u8], at: &mut usize) -> Result<(), Failure> {
        let rest = input.get(*at..).unwrap_or_default();
        let message_bytes_max = self.link.limits.message_bytes_max;
        let body_bytes_max = message_bytes_max.min(SMALL_BODY_BYTES_MAX as u64) as usize;
        let Some(publish) = self.publishes.read(rest, self.link.frame_max, body_bytes_max) else {
            return Ok(());
        };
        // What was returned in this chunk is in its queue before what is published behind it.
        if !self.is_ready_for_content() {
            return Ok(());
        }
        let Some((channel, link, publishes)) = self.ready(publish.channel) else { return Ok(()) };
        *at += publish.wire_bytes;
        let outcome = channel.on_whole_publish(link, &publish);
        if outcome.is_ok() {
            channel.publish_alike(link, &publish, publishes.alike(input, at));
        }
        self.settle_express(publish.channel, outcome, PUBLISH_ID)
    }

    fn take_acks(&mut self, input: &[u8], at: &mut usize) -> Result<(), Failure> {
        let Some(row) = AckRow::peek(input) else { return Ok(()) };
        let Some((channel, link, _)) = self.ready(row.channel) else { return Ok(()) };
        if channel.is_transactional() {
            return Ok(());
        }
        *at += row.wire_bytes;
        let outcome = channel.on_ack_row(link, row.first, row.last);
        self.settle_express(row.channel, outcome, ACK_ID)
    }

    /// The channel, if it is open and no content has begun on it, and what goes with it.
    fn ready(&mut self, number: u16) -> Option<(&mut Channel, &mut Link, &PublishReader)> {
        let at = self.find(number).ok()?;
        match self.channels.get_mut(at) {
            Some((_, Slot::Open(channel))) if !channel.awaits_content() => {
                Some((channel, &mut self.link, &self.publishes))
            }
            _ => None,
        }
    }

    fn settle_express(
        &mut self,
        channel: u16,
        outcome: Result<(), Refusal>,
        id: (u16, u16),
    ) -> Result<(), Failure> {
        match outcome {
            Ok(()) => Ok(()),
            Err(refusal) => self.refuse(channel, refusal, id).map(|_| ()),
        }
    }
}
