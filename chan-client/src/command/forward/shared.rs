//! The session that the connections of a `forward` share.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use lib_chan::relay::{Relay, STREAMS, StreamsMessage};
use lib_chan::{Channel, ExitReason, Remote};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Forward;
use crate::command::access::Way;
use crate::command::failure::Failure;
use crate::command::notice::Notice;
use crate::command::session::Session;
use crate::connect::ConnectError;

/// The sessions that connections share. New connections go to the current one.
#[derive(Default)]
pub(super) struct SharedSessions(Mutex<Sessions>);

#[derive(Default)]
struct Sessions {
    current: Option<Arc<SharedSession>>,
    /// The last failure to open one, and its time.
    failed: Option<(Instant, Failure)>,
    /// The tasks that keep sessions.
    keepers: JoinSet<()>,
}

/// A session with many streams.
pub(super) struct SharedSession {
    pub(super) streams: Remote<StreamsMessage>,
    pub(super) max_first_len: usize,
    /// A place for each stream. For more streams, another session is opened.
    places: Arc<Semaphore>,
    max_streams: u32,
    /// Notified when new connections go to another session.
    replaced: Notify,
}

impl SharedSession {
    /// Returns `true` if the session has ended. Looks once, and sets no timer, because all new connections wait for it.
    pub(super) async fn has_ended(&self) -> bool {
        let mut ended = pin!(self.streams.ended());
        poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx).is_ready())).await
    }
}

/// A session that was opened, and what keeps it.
pub(super) struct Opened {
    shared: Arc<SharedSession>,
    chan: Channel<(), StreamsMessage>,
    session: Session,
}

impl Opened {
    /// Opens a session.
    ///
    /// # Errors
    /// [`ConnectError::Codec`] if the service carries only one stream in a session.
    pub(super) async fn open(way: &Way, notice: &Notice) -> Result<Self, ConnectError> {
        let (chan, session) = way.open(way.connect(notice).args(&STREAMS), notice).await?;
        let streams = chan.remote();
        notice.follow(streams.clone());
        let max_streams = Relay::max_streams(&streams);
        let shared = SharedSession {
            max_first_len: Relay::max_first_len(&streams),
            streams,
            places: Arc::new(Semaphore::new(max_streams as usize)),
            max_streams,
            replaced: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared), chan, session })
    }

    /// Keeps the session until its end. A session that gets no more connections is closed after its last stream.
    async fn keep(self, forward: Arc<Forward>) {
        let Self { shared, chan, session } = self;
        let mut over = forward.over.subscribe();
        let unused = async {
            tokio::select! {
                () = shared.replaced.notified() => {}
                true = shared.streams.wait_draining() => {}
            }
            // From here on, no stream gets a place, and each that ends returns its own.
            drop(shared.places.acquire_many(shared.max_streams).await);
        };
        let reason = tokio::select! {
            // The sender is in `forward`.
            _ = over.wait_for(|over| *over) => ExitReason::Normal,
            () = unused => ExitReason::Normal,
            reason = shared.streams.ended() => reason,
        };
        shared.places.close();
        drop(chan);
        let ended = match reason {
            ExitReason::Normal => Ok(()),
            reason => Err(Failure::ended(&reason)),
        };
        if let Err(failure) = session.end(ended).await {
            forward
                .notice
                .complain(failure.map_line(|line| format!("{line} (its open connections were reset)")));
        }
    }
}

impl Sessions {
    /// Makes an open session the current one, and keeps it.
    fn put(&mut self, opened: Opened, forward: &Arc<Forward>) {
        if let Some(before) = self.current.replace(Arc::clone(&opened.shared)) {
            before.replaced.notify_one();
        }
        while self.keepers.try_join_next().is_some() {}
        self.keepers.spawn(opened.keep(Arc::clone(forward)));
    }
}

impl SharedSessions {
    /// Waits until all sessions have ended.
    pub(super) async fn ended(&self) {
        let mut sessions = self.0.lock().await;
        while sessions.keepers.join_next().await.is_some() {}
    }

    /// Makes an open session the current one, and keeps it.
    pub(super) async fn put(&self, opened: Opened, forward: &Arc<Forward>) {
        self.0.lock().await.put(opened, forward);
    }

    /// Returns a session with a place for another stream. Opens one if there is none; connections that come meanwhile wait,
    /// and fail with it.
    pub(super) async fn place(
        &self,
        forward: &Arc<Forward>,
    ) -> Result<(Arc<SharedSession>, OwnedSemaphorePermit), Failure> {
        let came = Instant::now();
        let mut sessions = self.0.lock().await;
        loop {
            if let Some(shared) = &sessions.current
                && !shared.has_ended().await
                && let Ok(place) = Arc::clone(&shared.places).try_acquire_owned()
            {
                return Ok((Arc::clone(shared), place));
            }
            if let Some((when, failure)) = &sessions.failed
                && came <= *when
            {
                return Err(failure.clone());
            }
            forward.way.read_again(&forward.notice);
            // In a box, because each stream would occupy as much as the login.
            match Box::pin(Opened::open(&forward.way, &forward.notice)).await {
                Ok(opened) => sessions.put(opened, forward),
                Err(error) => sessions.failed = Some((Instant::now(), error.into())),
            }
        }
    }
}
