//! Processes inside messages, between the two ends of a session.
//!
//! Longer than other files, because all tests share their protocols and services.

use std::time::Duration;

use lib_chan::payload::Codec;
use lib_chan::{
    Address, Call, CallError, CallFailure, CastError, Channel, Event, Executed, ExitReason, Limits, Message,
    Pid, Process, Remote, Reply, Rights, enter, protocol, spawn, testing,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinError};

/// Hears of something.
#[protocol]
pub trait Ears {
    /// Tells a text.
    fn tell(text: String);
    /// Asks for everything that was told.
    async fn told() -> Vec<String>;
    /// Never answers.
    async fn hang();
    /// Ends the process.
    fn fail(reason: String);
}

/// Introduces processes to one another.
#[protocol]
pub trait Hall {
    /// Keeps a guest.
    fn enter_hall(guest: Address<EarsMessage>);
    /// Tells all guests.
    fn announce(text: String);
    /// Returns the guests.
    async fn guests() -> Vec<Address<EarsMessage>>;
    /// Returns a process of the hall.
    async fn host() -> Address<EarsMessage>;
    /// Asks the first guest for what it was told.
    async fn ask() -> Result<Vec<String>, String>;
    /// Forgets all guests.
    async fn forget();
    /// Returns the ends of a monitored process.
    async fn watch(guest: Pid) -> String;
    /// Returns the same process.
    async fn mirror(guest: Option<Address<EarsMessage>>) -> Option<Address<EarsMessage>>;
    /// Returns the same pid.
    async fn mirror_pid(guest: Pid) -> Pid;
}

async fn ears(mut me: Process<EarsMessage>) -> Result<(), ExitReason> {
    let (mut told, mut hanging) = (Vec::new(), Vec::new());
    loop {
        match me.recv().await {
            Event::Message(EarsMessage::Tell { text }) => told.push(text),
            Event::Message(EarsMessage::Told { reply }) => reply.send(told.clone()),
            Event::Message(EarsMessage::Hang { reply }) => hanging.push(reply),
            Event::Message(EarsMessage::Fail { reason }) => return Err(ExitReason::failed(reason)),
            _ => {}
        }
    }
}

async fn hall(_me: Process, mut chan: Channel<HallMessage, ()>) -> Result<(), ExitReason> {
    let (mut guests, host) = (Vec::<Address<EarsMessage>>::new(), spawn(ears));
    while let Some(message) = chan.recv().await {
        match message {
            HallMessage::EnterHall { guest } => guests.push(guest),
            HallMessage::Announce { text } => {
                for guest in &guests {
                    // A guest that is gone is not told.
                    let _ = guest.tell(&text).await;
                }
            }
            HallMessage::Guests { reply } => reply.send(guests.clone()),
            HallMessage::Host { reply } => reply.send(host.clone()),
            HallMessage::Ask { reply } => {
                let answer = guests[0].told().await;
                reply.send(answer.map_err(|error| error.to_string()));
            }
            HallMessage::Forget { reply } => {
                guests.clear();
                reply.send(());
            }
            HallMessage::Watch { guest, reply } => {
                tokio::spawn(async move { reply.send(guest.ended().await.to_string()) });
            }
            HallMessage::Mirror { guest, reply } => reply.send(guest),
            HallMessage::MirrorPid { guest, reply } => reply.send(guest),
        }
    }
    Ok(())
}

async fn open(codec: Codec) -> (Channel<(), HallMessage>, testing::Line) {
    testing::pair().codec(codec).serve(hall).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn far_process_is_told_and_asked() {
    for codec in [Codec::Bincode, Codec::Json] {
        let (chan, _line) = open(codec).await;
        let (hall, guest) = (chan.remote(), spawn(ears));
        hall.enter_hall(guest.clone()).await.unwrap();
        hall.announce("dinner").await.unwrap();
        assert_eq!(hall.ask().await.unwrap(), Ok(vec!["dinner".into()]));
        assert_eq!(guest.told().await.unwrap(), ["dinner"]);
    }
}

#[tokio::test(start_paused = true)]
async fn answer_hands_out_process_of_service() {
    let (chan, _line) = open(Codec::Json).await;
    let host = chan.remote().host().await.unwrap();
    host.tell("hello").await.unwrap();
    host.within(Duration::ZERO).tell("again").await.unwrap();
    assert_eq!(host.told().await.unwrap(), ["hello", "again"]);
    let late = host.within(Duration::from_secs(2)).hang().await.unwrap_err();
    assert_eq!(late, CallError::new(Executed::Unknown, CallFailure::Deadline));
}

#[tokio::test(start_paused = true)]
async fn messages_themselves_are_sent_to_far_process() {
    let (chan, _line) = open(Codec::Bincode).await;
    let host = chan.remote().host().await.unwrap();
    host.send(EarsMessage::Tell { text: "one".into() }).await.unwrap();
    host.try_send(EarsMessage::Tell { text: "two".into() }).unwrap();
    let within = Duration::from_secs(5);
    assert_eq!(host.call(within, |reply| EarsMessage::Told { reply }).await.unwrap(), ["one", "two"]);
    let late = host.call(within, |reply| EarsMessage::Hang { reply }).await.unwrap_err();
    assert_eq!(late, CallError::new(Executed::Unknown, CallFailure::Deadline));
}

#[tokio::test(start_paused = true)]
async fn returned_process_is_the_process_itself() {
    let (chan, _line) = open(Codec::Json).await;
    let (hall, guest) = (chan.remote(), spawn(ears));
    hall.enter_hall(guest.clone()).await.unwrap();
    let guests = hall.guests().await.unwrap();
    assert_eq!(guests[0].pid(), guest.pid());
    assert_eq!(hall.mirror_pid(guest.pid()).await.unwrap(), guest.pid());

    let host = hall.host().await.unwrap();
    assert_eq!(hall.host().await.unwrap().pid(), host.pid(), "one far process, one pid");
    let again = hall.mirror(Some(host.clone())).await.unwrap().unwrap();
    assert_eq!(again.pid(), host.pid());
    assert_eq!(hall.mirror_pid(host.pid()).await.unwrap(), host.pid());
    assert!(hall.mirror(None).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn monitors_tell_of_the_end_at_both_ends() {
    let (chan, _line) = open(Codec::Bincode).await;
    let (hall, guest) = (chan.remote(), spawn(ears));
    let watching = hall.watch(guest.pid());
    let (told, ()) = tokio::join!(watching, async {
        hall.enter_hall(guest.clone()).await.unwrap();
        hall.guests().await.unwrap();
        guest.fail("old age").await.unwrap();
    });
    assert_eq!(told.unwrap(), ExitReason::failed("old age").to_string());

    let host = hall.host().await.unwrap();
    let ended = host.pid().ended();
    host.fail("fire").await.unwrap();
    assert_eq!(ended.await, ExitReason::failed("fire"));
    assert_eq!(host.pid().ended().await, ExitReason::NoProc);
}

#[tokio::test(start_paused = true)]
async fn end_of_process_ends_its_calls_first() {
    let (chan, _line) = open(Codec::Bincode).await;
    let host = chan.remote().host().await.unwrap();
    let (taken, ended) = (host.hang(), host.pid().ended());
    let failed = async {
        host.told().await.unwrap();
        host.fail("fire").await.unwrap();
        // Comes to a process that is about to end, or has ended.
        host.told().await.unwrap_err()
    };
    let (taken, untaken, reason) = tokio::join!(taken, failed, ended);
    assert_eq!(taken.unwrap_err(), CallError::new(Executed::Unknown, CallFailure::NoAnswer));
    assert_eq!(untaken.executed, Executed::No, "{untaken}");
    assert_eq!(reason, ExitReason::failed("fire"));
    let late = host.told().await.unwrap_err();
    assert_eq!(late, CallError::new(Executed::No, CallFailure::Refused("no such process".into())));
}

#[tokio::test(start_paused = true)]
async fn casts_to_ended_process_never_wait() {
    let (chan, _line) = open(Codec::Bincode).await;
    let host = chan.remote().host().await.unwrap();
    let ended = host.pid().ended();
    host.fail("fire").await.unwrap();
    ended.await;
    for _ in 0..10 {
        host.tell("x".repeat(60_000)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn slow_process_holds_up_no_other() {
    /// Takes nothing until it is told to.
    async fn slow(mut me: Process<EarsMessage>, mut go: mpsc::Receiver<()>) -> Result<(), ExitReason> {
        go.recv().await;
        for _ in 0..20 {
            let Event::Message(EarsMessage::Tell { .. }) = me.recv().await else { panic!() };
        }
        ears(me).await
    }
    let (go, wait) = mpsc::channel(1);
    let (chan, _line) = open(Codec::Bincode).await;
    let (hall, quick) = (chan.remote(), chan.remote().host().await.unwrap());
    let slow = spawn(|me| slow(me, wait));
    hall.enter_hall(slow.clone()).await.unwrap();
    for _ in 0..20 {
        hall.announce("x".repeat(10_000)).await.unwrap();
    }
    quick.tell("quick").await.unwrap();
    assert_eq!(quick.told().await.unwrap(), ["quick"], "though the hall waits for its guest");
    go.send(()).await.unwrap();
    assert_eq!(hall.ask().await.unwrap(), Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn links_need_the_right() {
    let (chan, _line) = open(Codec::Bincode).await;
    let hall = chan.remote();
    let host = hall.host().await.unwrap();
    let result = enter(async |mut me: Process| {
        me.trap_exit(true);
        me.link(host.pid())?;
        Ok(me.recv().await)
    });
    let Ok(Event::Exit(pid, ExitReason::NoProc)) = result.await else { panic!() };
    assert_eq!(pid, host.pid());
    assert!(hall.host().await.is_ok(), "the process lives");
}

#[tokio::test(start_paused = true)]
async fn granted_link_carries_the_end() {
    let granted = spawn(ears).grant(Rights { link: true, ..Rights::default() });
    let given = granted.clone();
    let (client, mut server, _line) =
        testing::pair().open::<Address<EarsMessage>, Address<EarsMessage>>().await.unwrap();
    server.remote().cast(given).await.unwrap();
    let mut client: Channel<Address<EarsMessage>> = client;
    let Some(Message::Cast(far)) = client.recv().await else { panic!() };
    let ended = enter(async |mut me: Process| {
        me.trap_exit(true);
        me.link(far.pid())?;
        far.told().await?;
        granted.fail("fire").await?;
        Ok(me.recv().await)
    });
    let Ok(Event::Exit(pid, reason)) = ended.await else { panic!() };
    assert_eq!((pid, reason), (far.pid(), ExitReason::failed("fire")));
    drop(client);
    assert!(server.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn revoked_name_is_dead_at_once() {
    let (mut client, server, _line) = testing::pair().open::<(), Address<EarsMessage>>().await.unwrap();
    let process = spawn(ears);
    let granted = process.grant(Rights::default());
    server.remote().cast(granted.clone()).await.unwrap();
    server.remote().cast(process.clone()).await.unwrap();
    let Some(Message::Cast(alias)) = client.recv().await else { panic!() };
    let Some(Message::Cast(itself)) = client.recv().await else { panic!() };
    assert_ne!(alias.pid(), itself.pid(), "an alias has an identity of its own");
    alias.tell("before").await.unwrap();
    assert_eq!(alias.told().await.unwrap(), ["before"]);
    let ended = alias.pid().ended();
    assert!(granted.revoke());
    assert_eq!(ended.await, ExitReason::NoProc);
    let refused = alias.told().await.unwrap_err();
    assert_eq!(refused, CallError::new(Executed::No, CallFailure::Refused("no such process".into())));
    assert_eq!(itself.told().await.unwrap(), ["before"], "the process lives");
    assert_eq!(granted.told().await.unwrap(), ["before"], "and hears this program");
    assert!(!process.revoke());
}

#[tokio::test(start_paused = true)]
async fn end_of_session_makes_all_dead() {
    let (chan, line) = open(Codec::Bincode).await;
    let (hall, guest) = (chan.remote(), spawn(ears));
    let host = hall.host().await.unwrap();
    hall.enter_hall(guest.clone()).await.unwrap();
    hall.guests().await.unwrap();
    let (hanging, ended) = (host.hang(), host.pid().ended());
    let (hanging, reason, ()) = tokio::join!(hanging, ended, async {
        host.told().await.unwrap();
        line.cut();
    });
    assert_eq!(
        hanging.unwrap_err(),
        CallError::new(Executed::Unknown, CallFailure::Exit(ExitReason::NoConnection))
    );
    assert_eq!(reason, ExitReason::NoConnection);
    assert_eq!(host.tell("late").await, Err(CastError::Ended(ExitReason::NoConnection)));
    assert_eq!(host.told().await.unwrap_err().executed, Executed::No);
    assert_eq!(guest.told().await.unwrap(), Vec::<String>::new(), "a process outlives the session");
    drop(chan);
    assert!(host.tell("very late").await.is_err());
}

type Session = (Channel<(), HallMessage>, testing::Line);

/// Two sessions of this program, and a process of the service of the first that the second was given.
async fn passed_on() -> (Session, Session, Address<EarsMessage>) {
    let (first, second) = (open(Codec::Bincode).await, open(Codec::Json).await);
    let host = first.0.remote().host().await.unwrap();
    second.0.remote().enter_hall(host.clone()).await.unwrap();
    (first, second, host)
}

/// Lets the hall monitor a process, and returns the reason of its end.
async fn watching(
    chan: &Channel<(), HallMessage>,
    guest: Pid,
) -> impl Future<Output = Result<String, JoinError>> + use<> {
    let hall = chan.remote();
    let watching = tokio::spawn(async move { hall.watch(guest).await.unwrap() });
    tokio::task::yield_now().await;
    // The hall has taken what was sent before.
    chan.remote().guests().await.unwrap();
    watching
}

#[tokio::test(start_paused = true)]
async fn far_process_is_passed_on_to_another_session() {
    let (_first, (second, _line), host) = passed_on().await;
    second.remote().announce("dinner").await.unwrap();
    assert_eq!(second.remote().ask().await.unwrap(), Ok(vec!["dinner".into()]));
    assert_eq!(host.told().await.unwrap(), ["dinner"]);
    // It is the same process each time.
    second.remote().enter_hall(host.clone()).await.unwrap();
    let guests = second.remote().guests().await.unwrap();
    assert_eq!(guests[0].pid(), guests[1].pid());
    assert_ne!(guests[0].pid(), host.pid());
    // Its address goes back over the first session as the process that it stands for.
    assert!(!guests[0].is_far());
}

#[tokio::test(start_paused = true)]
async fn forwarder_ends_with_the_reason_of_the_far_process() {
    let (_first, (second, _line), host) = passed_on().await;
    let forwarder = second.remote().guests().await.unwrap().remove(0).pid();
    let watching = watching(&second, forwarder.clone()).await;
    host.fail("boom").await.unwrap();
    assert_eq!(watching.await.unwrap(), "failed: boom");
    assert_eq!(forwarder.ended().await, ExitReason::failed("boom"));
    let late = second.remote().ask().await.unwrap().unwrap_err();
    assert!(late.contains("not executed"), "{late}");
}

#[tokio::test(start_paused = true)]
async fn lost_session_ends_its_forwarders() {
    let ((first, _line), (second, _other), _host) = passed_on().await;
    let forwarder = second.remote().guests().await.unwrap().remove(0).pid();
    let watching = watching(&second, forwarder).await;
    first.remote().end(ExitReason::Normal);
    assert_eq!(watching.await.unwrap(), "noconnection");
    assert!(second.remote().guests().await.is_ok(), "the other session lives");
}

#[tokio::test(start_paused = true)]
async fn forwarded_call_tells_truly_whether_it_was_executed() {
    let ((first, _line), (second, _other), _host) = passed_on().await;
    let guest = second.remote().guests().await.unwrap().remove(0);
    let (sent, first) = (guest.clone(), first.remote());
    let hanging = tokio::spawn(async move { sent.hang().await });
    // The answer to a later call says that the far process has taken the first.
    guest.told().await.unwrap();
    first.end(ExitReason::Normal);
    assert_eq!(hanging.await.unwrap().unwrap_err().executed, Executed::Unknown);
    assert_eq!(guest.told().await.unwrap_err().executed, Executed::No);
}

#[tokio::test(start_paused = true)]
async fn forwarder_ends_when_it_is_released() {
    let (_first, (second, _line), host) = passed_on().await;
    let forwarder = second.remote().guests().await.unwrap().remove(0).pid();
    second.remote().announce("the last words").await.unwrap();
    second.remote().forget().await.unwrap();
    assert_eq!(forwarder.ended().await, ExitReason::Normal);
    assert_eq!(host.told().await.unwrap(), ["the last words"]);
    // Another sending makes another.
    second.remote().enter_hall(host).await.unwrap();
    let other = second.remote().guests().await.unwrap().remove(0).pid();
    assert_ne!(other, forwarder);
    // It ends with its session as well.
    second.remote().end(ExitReason::Normal);
    assert_eq!(other.ended().await, ExitReason::Normal);
}

#[tokio::test(start_paused = true)]
async fn forwarder_of_stuck_process_ends_with_its_session() {
    /// Hands out a process that takes nothing.
    async fn stuck(_me: Process, mut chan: Channel<HallMessage, ()>) -> Result<(), ExitReason> {
        while let Some(message) = chan.recv().await {
            if let HallMessage::Host { reply } = message {
                reply.send(spawn(async move |_me: Process<EarsMessage>| std::future::pending().await));
            }
        }
        Ok(())
    }
    let (first, _line): (Channel<(), HallMessage>, _) = testing::pair().serve(stuck).await.unwrap();
    let (second, _other) = open(Codec::Bincode).await;
    second.remote().enter_hall(first.remote().host().await.unwrap()).await.unwrap();
    let forwarder = second.remote().guests().await.unwrap().remove(0).pid();
    for _ in 0..10 {
        second.remote().announce("x".repeat(20_000)).await.unwrap();
    }
    let waiting = second.remote().within(Duration::from_secs(1)).guests().await.unwrap_err();
    assert_eq!(waiting.reason, CallFailure::Deadline, "the hall waits for the forwarder");
    second.remote().end(ExitReason::Normal);
    assert_eq!(forwarder.ended().await, ExitReason::Killed);
}

#[tokio::test(start_paused = true)]
async fn process_outside_of_a_message_is_not_encoded() {
    let (first, _line) = open(Codec::Bincode).await;
    let host = first.remote().host().await.unwrap();
    let error = first.remote().mirror_pid(first.remote().pid()).await.unwrap_err();
    assert!(matches!(error.reason, CallFailure::Codec(_)), "{error}");
    let (second, _line) = open(Codec::Bincode).await;
    let error = second.remote().mirror_pid(host.pid()).await.unwrap_err();
    assert!(error.to_string().contains("another session"), "{error}");
    assert!(serde_json::to_string(&host).is_err(), "no message");
    assert!(serde_json::from_str::<Address<EarsMessage>>(r#"{"$process":0}"#).is_err());
    assert_eq!(second.remote().guests().await.unwrap().len(), 0, "both sessions live");
}

#[tokio::test(start_paused = true)]
async fn undecodable_handles_are_errors() {
    /// The wire form of the messages of a hall.
    #[derive(Serialize, Deserialize)]
    enum Raw {
        Mirror { guest: serde_json::Value },
    }
    impl Call for Raw {
        type Reply = serde_json::Value;
    }
    let (client, mut server, _line) =
        testing::pair().codec(Codec::Json).open_as::<(), Raw, HallMessage, ()>().await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = server.recv().await {
            if let HallMessage::Mirror { guest, reply } = message {
                reply.send(guest);
            }
        }
    });
    let remote: Remote<Raw> = client.remote();
    for guest in [
        serde_json::json!({"$process": 0}),
        serde_json::json!({"$process": -1}),
        serde_json::json!({"$process": "0"}),
        serde_json::json!(0),
    ] {
        let error = remote.call(Raw::Mirror { guest }).await.unwrap_err();
        assert_eq!(error.executed, Executed::No);
        assert!(matches!(error.reason, CallFailure::Codec(_)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn returned_process_of_other_messages_is_an_error() {
    /// A message to the hall, of a client that is mistaken and has no protocol.
    #[derive(Serialize, Deserialize)]
    enum Mistaken {
        Mirror { guest: Address<HallMessage> },
    }
    impl Call for Mistaken {
        type Reply = Address<EarsMessage>;
    }
    let (chan, _line): (Channel<(), Mistaken>, _) = {
        let (client, mut server, line) =
            testing::pair().codec(Codec::Json).open_as::<(), Mistaken, HallMessage, ()>().await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = server.recv().await {
                if let HallMessage::Mirror { guest, reply } = message {
                    reply.send(guest);
                }
            }
        });
        (client, line)
    };
    let wrong = spawn(async |mut me: Process<HallMessage>| {
        me.recv().await;
        Ok(())
    });
    let error = chan.remote().call(Mistaken::Mirror { guest: wrong }).await.unwrap_err();
    assert_eq!(error.executed, Executed::Yes);
    assert!(matches!(error.reason, CallFailure::Codec(what) if what.contains("takes other messages")));
}

#[tokio::test(start_paused = true)]
async fn too_many_processes_are_refused() {
    let mut limits = Limits::default();
    limits.max_handles = 3;
    let (client, mut server, _line) =
        testing::pair().limits(limits).open::<Vec<Address<EarsMessage>>, ()>().await.unwrap();
    let processes: Vec<_> = (0..4).map(|_| spawn(ears)).collect();
    let remote = client.remote();
    assert_eq!(remote.cast(processes.clone()).await, Err(CastError::TooManyHandles { max: 3 }));
    remote.cast(processes[..3].to_vec()).await.unwrap();
    let Some(Message::Cast(first)) = server.recv().await else { panic!() };
    assert!(remote.cast(vec![processes[3].clone()]).await.is_err());
    drop(first);
    // The release comes before the answer to the flush that is begun behind it.
    server.remote().flush().await.unwrap();
    remote.flush().await.unwrap();
    remote.cast(vec![processes[3].clone()]).await.unwrap();
    assert!(matches!(server.recv().await, Some(Message::Cast(last)) if last.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn processes_travel_in_batches_of_casts() {
    let (client, mut server, _line) =
        testing::pair().open::<Option<Address<EarsMessage>>, ()>().await.unwrap();
    let process = spawn(ears);
    let messages = (0..10).map(|number| (number % 3 == 0).then(|| process.clone()));
    client.remote().cast_all(messages).await.unwrap();
    for number in 0..10 {
        let Some(Message::Cast(message)) = server.recv().await else { panic!() };
        assert_eq!(message.is_some(), number % 3 == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn owner_hands_out_its_own_address() {
    let (chan, _line) = open(Codec::Bincode).await;
    let told = enter(async |mut me: Process<EarsMessage>| {
        let hall = chan.remote();
        hall.enter_hall(me.address()).await?;
        hall.announce("dinner").await?;
        let Event::Message(EarsMessage::Tell { text }) = me.recv().await else { panic!() };
        Ok(text)
    });
    assert_eq!(told.await.unwrap(), "dinner");
}

#[tokio::test(start_paused = true)]
async fn reply_passed_to_far_process_keeps_its_outcome() {
    /// Refuses everything.
    async fn rude(mut me: Process<EarsMessage>) -> Result<(), ExitReason> {
        loop {
            if let Event::Message(EarsMessage::Told { reply }) = me.recv().await {
                Reply::refuse(reply, "none of your business");
            }
        }
    }
    let (mut client, server, _line) = testing::pair().open::<(), Address<EarsMessage>>().await.unwrap();
    server.remote().cast(spawn(rude)).await.unwrap();
    let Some(Message::Cast(far)) = client.recv().await else { panic!() };
    let refused = CallError::new(Executed::No, CallFailure::Refused("none of your business".into()));
    assert_eq!(far.told().await.unwrap_err(), refused);
    let within = Duration::from_secs(5);
    let error = far.call(within, |reply| EarsMessage::Told { reply }).await.unwrap_err();
    assert_eq!(error, refused);
}

#[tokio::test]
async fn messages_to_handed_out_process_arrive_before_close() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let ears = spawn(async move |mut me: Process<EarsMessage>| {
        loop {
            if let Event::Message(EarsMessage::Tell { text }) = me.recv().await {
                let _ = tell.send(text);
            }
        }
    });
    let hall = move |_me: Process, mut chan: Channel<HallMessage, ()>| {
        let ears = ears.clone();
        async move {
            while let Some(message) = chan.recv().await {
                if let HallMessage::Host { reply } = message {
                    reply.send(ears.clone());
                }
            }
            Ok(())
        }
    };
    let (chan, _line) = testing::pair().serve(hall).await.unwrap();
    let host = chan.remote().host().await.unwrap();
    for number in 0..10 {
        host.tell(number.to_string()).await.unwrap();
    }
    chan.close().await.unwrap();
    for number in 0..10 {
        assert_eq!(told.recv().await, Some(number.to_string()));
    }
}

/// Gets the address of a process, links to it and monitors it, says so, and returns both reasons.
async fn link_and_monitor(mut chan: Channel<Address<EarsMessage>, String>) -> [ExitReason; 2] {
    let Some(Message::Cast(far)) = chan.recv().await else { panic!() };
    let told = enter(async |mut me: Process| {
        me.trap_exit(true);
        me.link(far.pid())?;
        me.monitor(far.pid());
        chan.remote().cast("watched").await?;
        let mut reasons = [ExitReason::Kill, ExitReason::Kill];
        for _ in 0..2 {
            match me.recv().await {
                Event::Exit(pid, reason) if pid == far.pid() => reasons[0] = reason,
                Event::Down(_, pid, reason) if pid == far.pid() => reasons[1] = reason,
                other => panic!("{other:?}"),
            }
        }
        Ok(reasons)
    });
    told.await.unwrap()
}

const LINKABLE: Rights = Rights { send: true, monitor: true, link: true, exit: false, kill: false };

#[tokio::test(start_paused = true)]
async fn owner_that_was_handed_out_tells_its_reason() {
    async fn owner(
        me: Process<EarsMessage>,
        mut chan: Channel<String, Address<EarsMessage>>,
    ) -> Result<(), ExitReason> {
        chan.remote().cast(me.address().grant(LINKABLE)).await?;
        chan.recv().await;
        Err(ExitReason::failed("fire"))
    }
    let (client, server, _line) = testing::pair().open().await.unwrap();
    spawn(|me| owner(me, server));
    assert_eq!(link_and_monitor(client).await, [ExitReason::failed("fire"), ExitReason::failed("fire")]);
}

#[tokio::test(start_paused = true)]
async fn process_that_ended_just_before_close_tells_its_reason() {
    for way in ["close", "drop", "drop the remote"] {
        let service = async move |_me: Process, mut chan: Channel<String, Address<EarsMessage>>| {
            let host = spawn(ears);
            chan.remote().cast(host.grant(LINKABLE)).await?;
            chan.recv().await;
            host.pid().exit(ExitReason::failed("fire"));
            match way {
                "close" => chan.close().await,
                "drop" => Ok(()),
                _ => {
                    drop(chan.into_remote());
                    Ok(())
                }
            }
        };
        let (client, _line) = testing::pair().serve(service).await.unwrap();
        let fire = ExitReason::failed("fire");
        assert_eq!(link_and_monitor(client).await, [fire.clone(), fire], "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_taken_by_handed_out_process_is_unknown_after_close() {
    let service = async |_me: Process, chan: Channel<(), Address<EarsMessage>>| {
        let (tell, mut told) = mpsc::channel(1);
        let host = spawn(async move |mut me: Process<EarsMessage>| {
            let taken = me.recv().await;
            let _ = tell.send(()).await;
            me.recv().await;
            drop(taken);
            Ok(())
        });
        chan.remote().cast(host.clone()).await?;
        told.recv().await;
        chan.close().await
    };
    let (mut client, _line) = testing::pair().serve(service).await.unwrap();
    let Some(Message::Cast(far)) = client.recv().await else { panic!() };
    assert_eq!(far.hang().await.unwrap_err().executed, Executed::Unknown);
}

/// Tells when a process has ended.
#[protocol]
pub trait Watchers {
    /// Returns the reason of the end, after a first look that is given up.
    async fn end_of(guest: Address<EarsMessage>, give_up: bool) -> String;
}

async fn watchers(_me: Process, mut chan: Channel<WatchersMessage, ()>) -> Result<(), ExitReason> {
    while let Some(WatchersMessage::EndOf { guest, give_up, reply }) = chan.recv().await {
        tokio::spawn(async move {
            if give_up {
                let look = tokio::time::timeout(Duration::from_millis(1), guest.pid().ended());
                look.await.unwrap_err();
            }
            reply.send(guest.pid().ended().await.to_string());
        });
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn ends_of_granted_processes_are_told() {
    for give_up in [false, true] {
        for grant in [false, true] {
            let (chan, _line) = testing::pair().serve(watchers).await.unwrap();
            let guest = spawn(ears);
            let given =
                if grant { guest.grant(Rights { link: true, ..Rights::default() }) } else { guest.clone() };
            let ended = {
                let watchers = chan.remote();
                tokio::spawn(async move { watchers.end_of(given, give_up).await })
            };
            tokio::time::sleep(Duration::from_secs(1)).await;
            guest.pid().exit(ExitReason::Shutdown);
            let reason = tokio::time::timeout(Duration::from_secs(30), ended).await;
            assert_eq!(reason.expect("it is told").unwrap().unwrap(), "shutdown", "{give_up} {grant}");
        }
    }
}
