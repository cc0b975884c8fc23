//! How much is done at a time, and how much of what was answered is kept: what all requests share, so that none of them
//! keeps others from an answer, and all of them leave the processor and the memory to messages.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::mgmt::CONNECTIONS_MAX;
use crate::mgmt::answer::{Answer, Refusal};
use crate::mgmt::turns::{Request, Requests, Turns};

/// Requests at work at a time, of each kind. Whoever publishes or gets does little and may wait for long: for the end of an
/// alarm, or for the disk.
const READING_MAX: usize = 2;
const CHANGING_MAX: usize = 2;
const MESSAGING_MAX: usize = 32;
/// Messages that are got are in memory as often as they are copied on their way into an answer.
const GETTING_MAX: usize = 8;

/// One user's requests at a time, those included whose bodies are still coming and those that wait for their turn: half as
/// many as there are connections.
const REQUESTS_MAX: usize = CONNECTIONS_MAX / 2;

/// Answers that their clients have not taken yet have so many bytes together, but for one that has more alone.
const UNREAD_BYTES_MAX: usize = 256 << 20;
/// They are counted in pieces of so many bytes: less is nothing.
const PIECE_BYTES: usize = 64 << 10;

/// What a request does with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It reads what is.
    Reading,
    /// It changes definitions, and may take many turns to do so.
    Changing,
    /// It publishes messages.
    Messaging,
    /// It takes some.
    Getting,
}

/// Places for work, and for answers.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    requests: Requests,
    reading: Turns,
    changing: Turns,
    messaging: Turns,
    getting: Turns,
    unread: Arc<Semaphore>,
}

/// An answer's bytes, with their place.
struct Unread {
    body: Bytes,
    _place: OwnedSemaphorePermit,
}

/// Room for an answer that is being made.
#[derive(Debug)]
pub(crate) struct Room {
    unread: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Room {
    /// Takes room for so many more bytes.
    ///
    /// # Errors
    /// There is none: others do not read their answers.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = pieces(self.bytes + bytes).saturating_sub(held);
        let place = Arc::clone(&self.unread).try_acquire_many_owned(more as u32);
        let place = place.map_err(|_| Refusal::unavailable())?;
        match &mut self.held {
            Some(held) => held.merge(place),
            None => self.held = Some(place),
        }
        self.bytes += bytes;
        Ok(())
    }

    /// The answer that was made, in this room until its client has taken it.
    pub(crate) fn hold(self, answer: Answer) -> Answer {
        match self.held {
            Some(_place) => {
                let body = Unread { body: answer.body().clone(), _place };
                answer.with_room(Bytes::from_owner(body))
            }
            None => answer,
        }
    }
}

/// What bytes are counted as: as much as there may be is enough for any one answer.
fn pieces(bytes: usize) -> usize {
    (bytes / PIECE_BYTES).min(UNREAD_BYTES_MAX / PIECE_BYTES)
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Places {
    pub(crate) fn new() -> Self {
        Self {
            requests: Requests::default(),
            reading: Turns::new(READING_MAX),
            changing: Turns::new(CHANGING_MAX),
            messaging: Turns::new(MESSAGING_MAX),
            getting: Turns::new(GETTING_MAX),
            unread: Arc::new(Semaphore::new(UNREAD_BYTES_MAX / PIECE_BYTES)),
        }
    }

    /// A request of this user, until it is dropped: to be had before its body is read.
    ///
    /// # Errors
    /// They have so many at a time that others could have none.
    pub(crate) fn begin(&self, user: &Arc<str>) -> Result<Request, Refusal> {
        self.requests.begin(user, REQUESTS_MAX).ok_or_else(|| Refusal::too_many(REQUESTS_MAX))
    }

    /// Runs `job` on a thread beside the workers, when it is this user's turn. It has its place for as long as it runs, also when
    /// nobody waits for it any more: the thread cannot be told.
    ///
    /// # Errors
    /// The broker stops, or the job has failed.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: Work,
        user: &Arc<str>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let places = match work {
            Work::Reading => &self.reading,
            Work::Changing => &self.changing,
            Work::Messaging => &self.messaging,
            Work::Getting => &self.getting,
        };
        let turn = places.take(user).await.ok_or_else(Refusal::unavailable)?;
        let job = move || {
            let _turn = turn;
            job()
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| Refusal::unavailable())
    }

    /// Gives an answer a place until its client has taken it.
    ///
    /// # Errors
    /// There is none: others do not read theirs.
    pub(crate) fn keep(&self, answer: Answer) -> Result<Answer, Refusal> {
        if answer.has_room() || pieces(answer.body().len()) == 0 {
            return Ok(answer);
        }
        let mut room = self.room();
        room.grow(answer.body().len())?;
        Ok(room.hold(answer))
    }

    /// Room for an answer whose making cannot be undone: it is to be had before.
    pub(crate) fn room(&self) -> Room {
        Room { unread: Arc::clone(&self.unread), held: None, bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use tokio::sync::oneshot;

    use super::{CHANGING_MAX, Places, UNREAD_BYTES_MAX, Work};
    use crate::mgmt::answer::Answer;

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_keeps_its_place_until_it_ends() {
        let (places, user) = (Places::new(), Arc::from("user"));
        let mut ends = Vec::new();
        for _ in 0..CHANGING_MAX {
            let (begins, begun) = oneshot::channel();
            let (ends_it, end) = mpsc::channel::<()>();
            let job = places.run(Work::Changing, &user, move || {
                let _ = begins.send(());
                let _ = end.recv();
            });
            tokio::select! {
                _ = job => panic!("it has not been told to end"),
                begun = begun => begun.unwrap(),
            }
            ends.push(ends_it);
        }
        assert_eq!(places.changing.free(), 0, "all of them run");
        drop(ends);
        places.run(Work::Changing, &user, || ()).await.unwrap();
    }

    #[test]
    fn answers_that_nobody_reads_are_bounded() {
        let places = Places::new();
        let answer = |bytes: usize| Answer::json_bytes(vec![0; bytes]);
        let first = places.keep(answer(UNREAD_BYTES_MAX / 3 * 2)).unwrap();
        assert!(places.keep(answer(UNREAD_BYTES_MAX / 3 * 2)).is_err());
        assert_eq!(places.keep(answer(1000)).unwrap().body().len(), 1000);
        drop(first);
        // One that is larger than all may be is alone.
        let large = places.keep(answer(UNREAD_BYTES_MAX * 2)).unwrap();
        assert!(places.keep(answer(UNREAD_BYTES_MAX / 3)).is_err());
        drop(large);
        assert!(places.keep(answer(UNREAD_BYTES_MAX / 3)).is_ok());
    }
}
