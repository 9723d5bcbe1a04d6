//! ractor's actors. Its mailboxes are unbounded.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorRuntime};

use super::{Ball, Latch, Note, Notes, Player, Processes, Reader};

pub(super) struct Ractor;

impl Processes for Ractor {
    type Notes = ActorRef<Note>;

    async fn spawn_reader() -> ActorRef<Note> {
        spawn(NoteTaker, ())
    }

    async fn play(player: Player) {
        let (serving, other) = (spawn(Paddle, player), spawn(Paddle, Player::other()));
        let _ = other.cast(Hit(Ball::To(serving.clone())));
        let _ = serving.cast(Hit(Ball::To(other)));
        let _ = serving.cast(Hit(Ball::Hit(0)));
    }

    fn spawn_brief(latch: Arc<Latch>) {
        spawn(Brief, latch);
    }

    fn spawn_idle(latch: Arc<Latch>) -> impl Send {
        spawn(Idle, latch)
    }
}

/// Without waiting until it has started, as the others do.
fn spawn<A: Actor>(actor: A, arguments: A::Arguments) -> ActorRef<A::Msg> {
    ActorRuntime::spawn_instant(None, actor, arguments).expect("an actor without a name").0
}

impl Notes for ActorRef<Note> {
    async fn send(&self, note: Note) {
        let _ = self.cast(note);
    }
}

struct NoteTaker;

impl Actor for NoteTaker {
    type Msg = Note;
    type State = Reader;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Note>, (): ()) -> Result<Reader, ActorProcessingErr> {
        Ok(Reader::default())
    }

    async fn handle(
        &self,
        _: ActorRef<Note>,
        note: Note,
        reader: &mut Reader,
    ) -> Result<(), ActorProcessingErr> {
        reader.read(note);
        Ok(())
    }
}

struct Hit(Ball<ActorRef<Hit>>);

struct Paddle;

impl Actor for Paddle {
    type Msg = Hit;
    type State = (Player, Option<ActorRef<Hit>>);
    type Arguments = Player;

    async fn pre_start(&self, _: ActorRef<Hit>, player: Player) -> Result<Self::State, ActorProcessingErr> {
        Ok((player, None))
    }

    async fn handle(
        &self,
        _: ActorRef<Hit>,
        Hit(ball): Hit,
        (player, to): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match ball {
            Ball::To(address) => *to = Some(address),
            Ball::Hit(ball) => {
                if let (Some(ball), Some(to)) = (player.hit(ball), to) {
                    to.cast(Hit(Ball::Hit(ball)))?;
                }
            }
        }
        Ok(())
    }
}

struct Brief;

impl Actor for Brief {
    type Msg = ();
    type State = Arc<Latch>;
    type Arguments = Arc<Latch>;

    async fn pre_start(&self, me: ActorRef<()>, latch: Arc<Latch>) -> Result<Arc<Latch>, ActorProcessingErr> {
        me.stop(None);
        Ok(latch)
    }

    async fn post_stop(&self, _: ActorRef<()>, latch: &mut Arc<Latch>) -> Result<(), ActorProcessingErr> {
        latch.count_down();
        Ok(())
    }
}

struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = ();
    type Arguments = Arc<Latch>;

    async fn pre_start(&self, _: ActorRef<()>, latch: Arc<Latch>) -> Result<(), ActorProcessingErr> {
        latch.count_down();
        Ok(())
    }
}
