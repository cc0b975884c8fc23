//! The socket of this machine's administrator: whoever can open it needs no password.
//!
//! ```text
//!  mode 0600, in a directory where others cannot write    who may connect
//!  SO_PEERCRED: the user of this process, or root         who may speak
//!  the API, or, while the broker is stopped, three routes of it
//! ```
//!
//! It is there for as long as the process, also while the broker in it is stopped (`stop_app`), and where the API has no
//! port. One that a process has left behind is replaced, and one where somebody answers is not.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::routing::{get, post};
use parking_lot::Mutex;
use rustix::process::geteuid;
use serde_json::json;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::message::place::Lsn;
use crate::mgmt::CONNECTIONS_MAX;
use crate::mgmt::answer::Answer;
use crate::mgmt::control::{Ask, Control};
use crate::mgmt::seats::Seats;
use crate::mgmt::server::{EXHAUSTED_PAUSE, Peer, SHUTDOWN_LIMIT, Server, serve};

/// Read and written by its owner, and nobody else.
const OWNERS_ONLY: u32 = 0o600;
/// A directory that is made for it is its owner's.
const OWNERS_DIRECTORY: u32 = 0o700;
/// Writable by the group or by others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why there is no socket.
#[derive(Debug, Error)]
#[error("cannot open the socket {}: {why}", path.display())]
pub struct SocketError {
    /// Where it was to be.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
}

/// The socket, open. Nothing is answered before [`Local::run`].
#[derive(Debug)]
pub struct Local {
    listener: UnixListener,
    file: SocketFile,
    now: Arc<Now>,
}

/// What is answered at this moment: swapped as a whole when the broker starts or stops.
#[derive(Debug)]
struct Now {
    router: ArcSwap<Router>,
    control: Control,
    refused: Refused,
}

/// Why the broker could not be started, if that was tried last.
type Refused = Arc<Mutex<Option<String>>>;

/// A handle on what is answered.
#[derive(Clone, Debug)]
pub struct Door(Arc<Now>);

impl Local {
    /// Opens the socket at this path.
    ///
    /// # Errors
    /// Somebody answers there, there is something else, or the place is not safe.
    pub fn bind(path: &Path, control: Control) -> Result<Self, SocketError> {
        let refused = |why: String| SocketError { path: path.to_owned(), why };
        check_directory(path).map_err(refused)?;
        clear(path).map_err(refused)?;
        let (listener, file) = open(path).map_err(|error| refused(error.to_string()))?;
        let now = Now { router: ArcSwap::from_pointee(Router::new()), control, refused: Refused::default() };
        let local = Self { listener, file, now: Arc::new(now) };
        local.door().close(None);
        Ok(local)
    }

    /// The handle on what is answered: at first that nothing runs.
    pub fn door(&self) -> Door {
        Door(Arc::clone(&self.now))
    }

    /// Says in the log where it is.
    pub fn announce(&self) {
        tracing::info!(socket = %self.file.path.display(), "listening for this machine's administrator");
    }

    /// Serves until `stop`, and takes the socket away.
    pub async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept(&self.listener, &self.now, &connections, &stop) => {}
        }
        drop(self.file);
        connections.close();
        // What still runs then is not waited for.
        let _ = tokio::time::timeout(SHUTDOWN_LIMIT, connections.wait()).await;
    }
}

impl Door {
    /// From now on this API is answered with.
    pub fn open(&self, server: &Server) {
        self.0.router.store(Arc::new(server.local_router()));
    }

    /// From now on nothing is answered but that the broker does not run, and why it could not be started.
    pub fn close(&self, refused: Option<String>) {
        *self.0.refused.lock() = refused;
        self.0.router.store(Arc::new(asleep(&self.0)));
    }
}

/// What is answered while no broker runs.
fn asleep(now: &Now) -> Router {
    let (node, refused) = (Arc::clone(&now.control.node_name), Arc::clone(&now.refused));
    let asking = |ask: Ask| {
        let (control, refused) = (now.control.clone(), Arc::clone(&now.refused));
        post(move || asked(control.clone(), Arc::clone(&refused), ask))
    };
    Router::new()
        .route("/api/process", get(move || resting(Arc::clone(&node), Arc::clone(&refused))))
        .route("/api/process/start-app", asking(Ask::StartApp))
        .route("/api/process/stop-app", asking(Ask::StopApp))
        .route("/api/process/stop", asking(Ask::Stop))
        .fallback(not_running)
}

async fn resting(node: Arc<str>, refused: Refused) -> Response<Body> {
    let why = refused.lock().clone();
    Answer::json(&json!({"running": false, "node": *node, "reason": why})).into()
}

async fn asked(control: Control, refused: Refused, ask: Ask) -> Response<Body> {
    if ask == Ask::StartApp {
        // Whoever waits for it is not told why it failed before.
        *refused.lock() = None;
    }
    match control.ask(ask) {
        Ok(()) => Answer::done(Lsn::default()).into(),
        Err(refusal) => refusal.into(),
    }
}

async fn not_running() -> Response<Body> {
    let told = json!({"error": "not_running", "reason": "the broker is stopped"});
    Answer::with_status(StatusCode::SERVICE_UNAVAILABLE, &told).into()
}

async fn accept(
    listener: &UnixListener,
    now: &Arc<Now>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) {
    let seats = Seats::new(CONNECTIONS_MAX);
    while let Some(seat) = seats.take().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            continue;
        };
        if !is_owner(&stream) {
            continue;
        }
        // A connection keeps what was answered when it came: the tools make one for each thing they ask.
        let (router, stop) = (Router::clone(&now.router.load()), stop.clone());
        seat.end();
        connections.spawn(serve(stream, Peer::Local, router, seat, stop));
    }
}

/// Whether the peer is who runs this process, or root.
fn is_owner(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    peer.is_ok_and(|uid| uid == 0 || uid == geteuid().as_raw())
}

/// A directory where others write can be made to lead somewhere else.
fn check_directory(path: &Path) -> Result<(), String> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.exists() {
        let made = DirBuilder::new().recursive(true).mode(OWNERS_DIRECTORY).create(dir);
        made.map_err(|error| error.to_string())?;
    }
    let found = fs::metadata(dir).map_err(|error| error.to_string())?;
    let is_ours = found.uid() == 0 || found.uid() == geteuid().as_raw();
    if !is_ours || found.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(format!("others can write in {}", dir.display()));
    }
    Ok(())
}

/// Takes away what a process has left there.
fn clear(path: &Path) -> Result<(), String> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !found.file_type().is_socket() {
        return Err("there is a file".to_owned());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| error.to_string())
        }
        Ok(_) => Err("another process answers there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Opens it under another name first: under its own it is never there for others. The other name is this process's: of
/// two that start at a time neither takes the other's, and no file of anybody's is in the way.
fn open(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // A short one: a socket's path may not be long.
    let new = path.with_file_name(format!(".{}", std::process::id()));
    // What a process of this number, killed just here, has left.
    if fs::symlink_metadata(&new).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(&new)?;
    }
    let listener = UnixListener::bind(&new)?;
    let placed = fs::set_permissions(&new, Permissions::from_mode(OWNERS_ONLY))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| fs::symlink_metadata(path));
    match placed {
        Ok(found) => Ok((listener, SocketFile { path: path.to_owned(), inode: found.ino() })),
        Err(error) => {
            // It is the error that counts.
            let _ = fs::remove_file(&new);
            Err(error)
        }
    }
}

/// The socket's name, which goes with this.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have taken the place since.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{OWNERS_DIRECTORY, check_directory, open};

    #[tokio::test]
    async fn what_is_no_socket_is_never_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(dir.path().join("notes.new"), "a draft").unwrap();
        let (_listener, file) = open(&path).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("notes.new")).unwrap(), "a draft");
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_is_made_for_it_is_its_owners_and_so_are_those_above() {
        let dir = tempfile::tempdir().unwrap();
        check_directory(&dir.path().join("a/b/ctl.sock")).unwrap();
        for made in ["a", "a/b"] {
            let mode = fs::metadata(dir.path().join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, OWNERS_DIRECTORY, "{made}");
        }
    }
}
