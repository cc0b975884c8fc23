//! What the broker cannot do without: threads and tasks of which each does something that others wait for, and for ever if
//! it ended. A panic in one of them ends the process, loudly: a start recovers, a broker that goes on without would not.

use std::thread;

/// Ends the process when it is dropped by a panic: to be held for as long as the work takes.
#[derive(Debug)]
struct AbortOnPanic(&'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                what = self.0,
                "a part that the broker cannot do without has failed: the process ends"
            );
            std::process::abort();
        }
    }
}

/// Does this work on the caller's thread. When it panics the process ends.
pub(super) fn essential<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let _end = AbortOnPanic(what);
    work()
}

/// The same for a task.
pub(super) async fn essential_task<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    let _end = AbortOnPanic(what);
    work.await
}

/// Does this work on a thread that may wait for the disk. `None` when the runtime is going and it was not begun.
pub(super) async fn essential_blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(move || essential(what, work)).await.ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::{essential, essential_blocking, essential_task};

    /// The signal of an abort.
    const ABORT: i32 = 6;
    /// Set in the process that is to end.
    const VARIABLE: &str = "SLUICEMQ_TEST_PANICS";

    /// Plays the test of this name in a process of its own, in which `does` panics somewhere: that must end it.
    pub(in crate::net) fn check_ends_the_process(name: &str, does: impl FnOnce()) {
        if std::env::var_os(VARIABLE).is_some() {
            return does();
        }
        let mut own = Command::new(std::env::current_exe().unwrap());
        let output = own.arg(name).env(VARIABLE, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(ABORT), "{output:?}");
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn a_panic_in_a_thread_that_others_wait_for_ends_the_process() {
        check_ends_the_process("a_panic_in_a_thread_that_others_wait_for_ends_the_process", || {
            let thread = std::thread::spawn(|| essential("a test", || panic!("injected")));
            let _not_reached = thread.join();
        });
    }

    #[test]
    fn a_panic_in_a_task_that_others_wait_for_ends_the_process() {
        check_ends_the_process("a_panic_in_a_task_that_others_wait_for_ends_the_process", || {
            let task = essential_task("a test", async {
                tokio::task::yield_now().await;
                panic!("injected")
            });
            let runtime = runtime();
            let _not_reached = runtime.block_on(async { tokio::spawn(task).await });
        });
    }

    #[test]
    fn a_panic_in_work_that_waits_for_the_disk_ends_the_process() {
        check_ends_the_process("a_panic_in_work_that_waits_for_the_disk_ends_the_process", || {
            let runtime = runtime();
            let _not_reached = runtime.block_on(essential_blocking("a test", || panic!("injected")));
        });
    }

    #[test]
    fn what_is_not_waited_for_any_more_ends_nothing() {
        let runtime = runtime();
        let task = runtime.spawn(essential_task("a test", std::future::pending::<()>()));
        task.abort();
        assert!(runtime.block_on(task).unwrap_err().is_cancelled());
    }
}
