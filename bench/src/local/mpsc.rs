//! Tasks and channels of tokio: what a process without a pid, links, monitors and an ending costs.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Ball, CAPACITY, Latch, Note, Notes, Player, Processes, Reader};

pub(super) struct Mpsc;

struct Hit(Ball<mpsc::Sender<Hit>>);

impl Processes for Mpsc {
    type Notes = mpsc::Sender<Note>;

    async fn spawn_reader() -> mpsc::Sender<Note> {
        let (send, mut recv) = mpsc::channel(CAPACITY);
        tokio::spawn(async move {
            let mut reader = Reader::default();
            while let Some(note) = recv.recv().await {
                reader.read(note);
            }
        });
        send
    }

    async fn play(player: Player) {
        let (serving, other) = (spawn_player(player), spawn_player(Player::other()));
        let _ = other.send(Hit(Ball::To(serving.clone()))).await;
        let _ = serving.send(Hit(Ball::To(other))).await;
        let _ = serving.send(Hit(Ball::Hit(0))).await;
    }

    fn spawn_brief(latch: Arc<Latch>) {
        let (_send, _recv) = mpsc::channel::<()>(CAPACITY);
        tokio::spawn(async move {
            let _recv = _recv;
            latch.count_down();
        });
    }

    fn spawn_idle(latch: Arc<Latch>) -> impl Send {
        let (send, mut recv) = mpsc::channel::<()>(CAPACITY);
        tokio::spawn(async move {
            latch.count_down();
            drop(latch);
            recv.recv().await;
        });
        send
    }
}

impl Notes for mpsc::Sender<Note> {
    async fn send(&self, note: Note) {
        let _ = Self::send(self, note).await;
    }
}

fn spawn_player(mut player: Player) -> mpsc::Sender<Hit> {
    let (send, mut recv) = mpsc::channel(CAPACITY);
    tokio::spawn(async move {
        let mut to: Option<mpsc::Sender<Hit>> = None;
        while let Some(Hit(ball)) = recv.recv().await {
            match ball {
                Ball::To(address) => to = Some(address),
                Ball::Hit(ball) => {
                    if let (Some(ball), Some(to)) = (player.hit(ball), &to) {
                        let _ = to.send(Hit(Ball::Hit(ball))).await;
                    }
                }
            }
        }
    });
    send
}
