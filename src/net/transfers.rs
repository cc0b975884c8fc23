//! Gives transfers their turns: a task for each, beside those of connections, and like them.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::Now;
use crate::transfer::board::Board;
use crate::transfer::job::{Job, Pace};

/// Runs what has begun, for ever.
pub(super) async fn run(board: Arc<Board>) {
    let mut running = JoinSet::new();
    loop {
        let begun = std::future::poll_fn(|context| board.poll_begun(context, Now::read()));
        tokio::select! {
            jobs = begun => jobs.into_iter().for_each(|job| drop(running.spawn(drive(job)))),
            // One that has failed has said so itself.
            Some(_) = running.join_next() => {}
        }
    }
}

/// Gives one its turns until it is over.
async fn drive(mut job: Job) {
    loop {
        match job.step(Now::read()) {
            Pace::Again => tokio::task::yield_now().await,
            Pace::Over => return,
            Pace::Wait(until) => {
                let work = std::future::poll_fn(|context| job.poll_work(context));
                match until {
                    // That the time has come the next turn sees.
                    Some(until) => drop(tokio::time::timeout_at(Instant::from_std(until), work).await),
                    None => work.await,
                }
                tokio::task::yield_now().await;
            }
        }
    }
}
