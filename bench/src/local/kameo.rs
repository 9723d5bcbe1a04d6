//! kameo's actors.

use std::sync::Arc;

use kameo::actor::{Actor, ActorRef, Spawn, WeakActorRef};
use kameo::error::{ActorStopReason, Infallible};
use kameo::mailbox::{self, MailboxReceiver, MailboxSender};
use kameo::message::{Context, Message};

use super::{Ball, Latch, Note, Notes, Player, Processes, Reader};

/// With mailboxes of this capacity, or unbounded ones for 0.
pub(super) struct Kameo<const CAPACITY: usize>;

impl<const CAPACITY: usize> Processes for Kameo<CAPACITY> {
    type Notes = ActorRef<NoteTaker>;

    async fn spawn_reader() -> ActorRef<NoteTaker> {
        NoteTaker::spawn_with_mailbox(NoteTaker(Reader::default()), mailbox::<_, CAPACITY>())
    }

    async fn play(player: Player) {
        let spawn =
            |player| Paddle::spawn_with_mailbox(Paddle { player, to: None }, mailbox::<_, CAPACITY>());
        let (serving, other) = (spawn(player), spawn(Player::other()));
        let _ = other.tell(Ball::To(serving.clone())).await;
        let _ = serving.tell(Ball::To(other)).await;
        let _ = serving.tell(Ball::Hit(0)).await;
    }

    fn spawn_brief(latch: Arc<Latch>) {
        // An actor that nobody refers to any more stops.
        Brief::spawn_with_mailbox(Brief(latch), mailbox::<_, CAPACITY>());
    }

    fn spawn_idle(latch: Arc<Latch>) -> impl Send {
        Idle::spawn_with_mailbox(latch, mailbox::<_, CAPACITY>())
    }
}

fn mailbox<A: Actor, const CAPACITY: usize>() -> (MailboxSender<A>, MailboxReceiver<A>) {
    if CAPACITY == 0 { mailbox::unbounded() } else { mailbox::bounded(CAPACITY) }
}

impl Notes for ActorRef<NoteTaker> {
    async fn send(&self, note: Note) {
        let _ = self.tell(note).await;
    }
}

pub(super) struct NoteTaker(Reader);

impl Actor for NoteTaker {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(this: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(this)
    }
}

impl Message<Note> for NoteTaker {
    type Reply = ();

    async fn handle(&mut self, note: Note, _: &mut Context<Self, ()>) {
        self.0.read(note);
    }
}

struct Paddle {
    player: Player,
    to: Option<ActorRef<Self>>,
}

impl Actor for Paddle {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(this: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(this)
    }
}

impl Message<Ball<ActorRef<Self>>> for Paddle {
    type Reply = ();

    async fn handle(&mut self, ball: Ball<ActorRef<Self>>, _: &mut Context<Self, ()>) {
        match ball {
            Ball::To(address) => self.to = Some(address),
            Ball::Hit(ball) => {
                if let (Some(ball), Some(to)) = (self.player.hit(ball), &self.to) {
                    let _ = to.tell(Ball::Hit(ball)).await;
                }
            }
        }
    }
}

struct Brief(Arc<Latch>);

impl Actor for Brief {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(this: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(this)
    }

    async fn on_stop(&mut self, _: WeakActorRef<Self>, _: ActorStopReason) -> Result<(), Infallible> {
        self.0.count_down();
        Ok(())
    }
}

struct Idle;

impl Actor for Idle {
    type Args = Arc<Latch>;
    type Error = Infallible;

    async fn on_start(latch: Arc<Latch>, _: ActorRef<Self>) -> Result<Self, Infallible> {
        latch.count_down();
        Ok(Self)
    }
}
