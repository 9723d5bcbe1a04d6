//! lib_chan's processes.

use std::sync::Arc;
use std::time::Duration;

use lib_chan::{Address, Event, Process, SpawnOptions, spawn, spawn_with};

use super::{Ball, CAPACITY, Latch, Note, Notes, Player, Processes, Reader};

/// Whether the reader waits for each message with a timeout.
pub(super) struct Chan<const TIMED: bool>;

/// A timeout that never passes.
const LONG: Duration = Duration::from_secs(60);

struct Hit(Ball<Address<Hit>>);

impl<const TIMED: bool> Processes for Chan<TIMED> {
    type Notes = Address<Note>;

    async fn spawn_reader() -> Address<Note> {
        let options = SpawnOptions { mailbox_capacity: CAPACITY, ..SpawnOptions::default() };
        spawn_with(options, async move |mut me: Process<Note>| {
            let mut reader = Reader::default();
            loop {
                let event = if TIMED { me.recv_within(LONG).await } else { Some(me.recv().await) };
                if let Some(Event::Message(note)) = event {
                    reader.read(note);
                }
            }
        })
    }

    async fn play(player: Player) {
        let (serving, other) = (spawn_player(player), spawn_player(Player::other()));
        let _ = other.send(Hit(Ball::To(serving.clone()))).await;
        let _ = serving.send(Hit(Ball::To(other))).await;
        let _ = serving.send(Hit(Ball::Hit(0))).await;
    }

    fn spawn_brief(latch: Arc<Latch>) {
        spawn(async move |_me: Process| {
            latch.count_down();
            Ok(())
        });
    }

    fn spawn_idle(latch: Arc<Latch>) -> impl Send {
        spawn(async move |mut me: Process| {
            latch.count_down();
            drop(latch);
            me.recv().await;
            Ok(())
        })
    }
}

impl Notes for Address<Note> {
    async fn send(&self, note: Note) {
        let _ = Self::send(self, note).await;
    }
}

fn spawn_player(mut player: Player) -> Address<Hit> {
    spawn(async move |mut me: Process<Hit>| {
        let mut to = None;
        loop {
            match me.recv().await {
                Event::Message(Hit(Ball::To(address))) => to = Some(address),
                Event::Message(Hit(Ball::Hit(ball))) => {
                    if let (Some(ball), Some(to)) = (player.hit(ball), &to) {
                        to.send(Hit(Ball::Hit(ball))).await?;
                    }
                }
                _ => {}
            }
        }
    })
}
