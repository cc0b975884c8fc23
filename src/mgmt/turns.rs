//! Places that users are given in turn: whoever asks for a hundred at once waits for themselves, not others for them.
//!
//! ```text
//!  take(user) -> free? -> Turn
//!                  '----> the line: users in turn, of each its requests in order ---- a Turn ends ----> Turn
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// When one user has so many waiting requests those are dropped whose clients have hung up.
const CLOSED_LOOKED_FOR: usize = 256;

/// So many places. A handle: clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    free: usize,
    /// Who waits, the next one first. None of them is without requests.
    waiting: VecDeque<(Arc<str>, VecDeque<oneshot::Sender<Turn>>)>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Turns>);

/// How many requests each user has at a time. A handle: clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// One of a user's requests, until it is dropped.
#[derive(Debug)]
pub(crate) struct Request {
    of: Requests,
    user: Arc<str>,
}

impl Turns {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Line { free: places, waiting: VecDeque::new() })))
    }

    /// A place, when it is this user's turn. `None` is never seen: places do not go.
    pub(crate) async fn take(&self, user: &Arc<str>) -> Option<Turn> {
        let comes = {
            let mut line = self.0.lock();
            if line.free > 0 {
                line.free -= 1;
                return Some(Turn(Some(self.clone())));
            }
            line.wait(user)
        };
        comes.await.ok()
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.0.lock().free
    }
}

impl Line {
    fn wait(&mut self, user: &Arc<str>) -> oneshot::Receiver<Turn> {
        let (tells, comes) = oneshot::channel();
        match self.waiting.iter_mut().find(|(own, _)| own == user) {
            Some((_, requests)) => {
                // Who has hung up is not waited with.
                if requests.len() >= CLOSED_LOOKED_FOR {
                    requests.retain(|tells| !tells.is_closed());
                }
                requests.push_back(tells);
            }
            None => self.waiting.push_back((Arc::clone(user), VecDeque::from([tells]))),
        }
        comes
    }

    /// Who is next; their user's turn comes again after all others'.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (user, mut requests) = self.waiting.pop_front()?;
        let next = requests.pop_front();
        if !requests.is_empty() {
            self.waiting.push_back((user, requests));
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let next = {
                let mut line = turns.0.lock();
                let next = line.next();
                line.free += usize::from(next.is_none());
                next
            };
            let Some(next) = next else { return };
            match next.send(Self(Some(turns.clone()))) {
                Ok(()) => return,
                // Nobody waits for it any more: the next one, and not by this one's end.
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
    }
}

impl Requests {
    /// One more of this user's, if they have fewer than `max`.
    pub(crate) fn begin(&self, user: &Arc<str>, max: usize) -> Option<Request> {
        let mut counts = self.0.lock();
        let count = counts.entry(Arc::clone(user)).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Request { of: self.clone(), user: Arc::clone(user) })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock();
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::{CLOSED_LOOKED_FOR, Requests, Turns};

    fn is_served(future: std::pin::Pin<&mut impl Future>) -> bool {
        matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
    }

    #[tokio::test]
    async fn who_asks_once_is_served_before_the_second_of_who_asks_often() {
        let turns = Turns::new(1);
        let (often, once) = (Arc::from("often"), Arc::from("once"));
        let at_work = turns.take(&often).await.unwrap();
        let mut first = pin!(turns.take(&often));
        let mut second = pin!(turns.take(&often));
        let mut other = pin!(turns.take(&once));
        assert!(!is_served(first.as_mut()) && !is_served(second.as_mut()) && !is_served(other.as_mut()));
        drop(at_work);
        let at_work = first.await.unwrap();
        drop(at_work);
        assert!(!is_served(second.as_mut()), "it is the other's turn");
        let at_work = other.await.unwrap();
        drop(at_work);
        drop(second.await.unwrap());
        assert_eq!(turns.free(), 1);
    }

    #[tokio::test]
    async fn who_hangs_up_is_not_remembered_for_ever() {
        let turns = Turns::new(1);
        let user: Arc<str> = Arc::from("user");
        let _at_work = turns.take(&user).await.unwrap();
        for _ in 0..10 * CLOSED_LOOKED_FOR {
            let mut waits = Box::pin(turns.take(&user));
            assert!(!is_served(waits.as_mut()));
        }
        assert!(turns.0.lock().waiting[0].1.len() <= CLOSED_LOOKED_FOR);
    }

    #[tokio::test]
    async fn a_place_is_not_lost_with_who_waits_for_it() {
        let turns = Turns::new(1);
        let user: Arc<str> = Arc::from("user");
        let at_work = turns.take(&user).await.unwrap();
        let mut goes_before = Box::pin(turns.take(&user));
        let mut goes_after = Box::pin(turns.take(&user));
        assert!(!is_served(goes_before.as_mut()) && !is_served(goes_after.as_mut()));
        drop(goes_before);
        drop(at_work);
        // It has been given the place, and does not look any more.
        drop(goes_after);
        assert_eq!(turns.free(), 1);
    }

    #[test]
    fn a_user_has_so_many_requests_at_a_time_and_others_have_theirs() {
        let requests = Requests::default();
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        let held: Vec<_> = (0..3).map(|_| requests.begin(&one, 3).unwrap()).collect();
        assert!(requests.begin(&one, 3).is_none());
        assert!(requests.begin(&other, 3).is_some());
        drop(held);
        assert!(requests.begin(&one, 3).is_some());
        assert!(requests.0.lock().is_empty(), "nothing stays of who has none");
    }
}
