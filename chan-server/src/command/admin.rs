//! The socket through which an operator watches and changes a running server.
//!
//! A Unix socket in the state directory, mode 0600. The user of the server and root may connect. A connection carries one
//! request and its answer, each a line of JSON.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lib_chan::private::check_directory;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;
use super::serve::Reloader;
use crate::identity::StateDir;
use crate::live::{SessionInfo, Whom};
use crate::reload::Changes;
use crate::server::{Handle, Status};

/// The longest request.
const MAX_REQUEST_LEN: u64 = 64 * 1024;
/// The time that a request may take to arrive, and its answer to be read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests at once; more wait.
const MAX_REQUESTS: usize = 16;

/// A request of an operator.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Sessions,
    Status,
    Kick(Whom),
    Reload,
    /// Asks what a reload of this file would change.
    Compare(PathBuf),
    Drain,
}

/// The answer of the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Sessions(Vec<SessionInfo>),
    Status(Status),
    Kicked(Vec<u64>),
    Changes(Changes),
    /// The connection ends with the program.
    Draining {
        sessions: usize,
    },
    Failed {
        text: String,
        code: u8,
    },
}

/// Returns the path of the socket.
pub(super) fn path(state: &StateDir) -> PathBuf {
    state.file("admin.sock")
}

/// The parts of the server that requests concern.
pub(super) struct Desk {
    pub(super) handle: Handle,
    pub(super) reloader: Reloader,
    /// Told when the server is to end.
    pub(super) stop: Arc<Notify>,
}

/// A listening socket, which is removed when it is dropped.
pub(super) struct Admin {
    listener: UnixListener,
    path: PathBuf,
}

impl Admin {
    /// Listens in the state directory. A socket that a killed server left behind is replaced.
    ///
    /// # Errors
    /// There is no socket: others may enter the directory, another server answers there, or the system gives none.
    pub(super) fn open(state: &StateDir) -> io::Result<Self> {
        let path = path(state);
        check_directory(state.path()).map_err(io::Error::other)?;
        if StdUnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server uses this state directory"));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Nobody else may enter the directory, so nobody connects before the mode is set.
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers requests for ever.
    pub(super) async fn serve(self, desk: Desk) {
        let (desk, places) = (Arc::new(desk), Arc::new(Semaphore::new(MAX_REQUESTS)));
        // They end with this future.
        let mut requests = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                // No descriptor: one may be free soon.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while requests.try_join_next().is_some() {}
            if stream.peer_cred().is_ok_and(|peer| may_operate(peer.uid())) {
                let desk = Arc::clone(&desk);
                requests.spawn(async move {
                    // An operator who is gone needs no answer.
                    let _ = answer(stream, &desk).await;
                    drop(place);
                });
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The mode of the socket keeps others out on systems that look at it; this does on all.
fn may_operate(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

async fn answer(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST_LEN));
    timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => desk.answer(request).await,
        Err(error) => failed(&Failure::usage(format_args!("no request: {error}"))),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    timeout(REQUEST_TIMEOUT, writer.write_all(text.as_bytes())).await??;
    if let Answer::Draining { .. } = answer {
        desk.stop.notify_one();
        std::future::pending::<()>().await;
    }
    Ok(())
}

impl Desk {
    async fn answer(&self, request: Order) -> Answer {
        match request {
            Order::Sessions => Answer::Sessions(self.handle.sessions()),
            Order::Status => Answer::Status(self.handle.status()),
            Order::Kick(whom) => Answer::Kicked(self.handle.kick(&whom)),
            Order::Reload => changes(self.reloader.reload(&self.handle).await),
            Order::Compare(file) => changes(self.reloader.compare(&self.handle, &file).await),
            Order::Drain => Answer::Draining { sessions: self.handle.sessions().len() },
        }
    }
}

fn changes(result: Result<Changes, Failure>) -> Answer {
    result.map_or_else(|failure| failed(&failure), Answer::Changes)
}

fn failed(failure: &Failure) -> Answer {
    Answer::Failed { text: failure.to_string(), code: failure.exit_code() }
}

/// Whether there is such a socket. A server that was killed may have left it behind.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_state_directory_gets_no_socket() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path());
        for (mode, is_private) in [(0o755, false), (0o700, true)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Admin::open(&state).map(drop).is_ok(), is_private, "{mode:o}");
        }
    }
}
