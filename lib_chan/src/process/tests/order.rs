//! The order of messages and signals between two processes.

use super::*;

#[tokio::test]
async fn messages_and_exits_keep_order() {
    let (a, b) = (Actor::new(), Actor::trapping());
    let to = b.clone();
    a.does(move |_| {
        to.0.try_send(Order::Say(1)).unwrap();
        to.pid().exit(boom());
        to.0.try_send(Order::Say(2)).unwrap();
    })
    .await;
    b.is_alive_with(&[Said(1), Exit(a.pid(), boom()), Said(2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_stay_in_order() {
    let b = Actor::new();
    let to = b.clone();
    let a = spawn(|_: Process| async move {
        for word in 0..10_000 {
            to.0.send(Order::Say(word)).await?;
        }
        Ok(())
    });
    assert_eq!(a.pid().ended().await, Normal);
    b.is_alive_with(&(0..10_000).map(Said).collect::<Vec<_>>()).await;
}

/// A process that sends a message and ends, and a trapping one that is linked to it and monitors it.
async fn last_words(rounds: usize) {
    for _ in 0..rounds {
        let watch = spawn(|mut me: Process<u32>| async move {
            me.trap_exit(true);
            let to = me.address();
            let child = me.spawn_link(|mut child: Process| async move {
                child.recv().await;
                to.send(7).await?;
                Err(boom())
            });
            let r = me.monitor(child.pid());
            child.send(()).await?;
            assert_eq!(me.recv().await, Event::Message(7));
            assert_eq!(me.recv().await, Event::Exit(child.pid(), boom()));
            assert_eq!(me.recv().await, Event::Down(r, child.pid(), boom()));
            Ok(())
        });
        assert_eq!(watch.pid().ended().await, Normal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_message_comes_before_exit_and_down() {
    last_words(1000).await;
}

#[tokio::test]
async fn messages_of_destructors_precede_exit() {
    struct Farewell(Address<u32>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            self.0.try_send(7).unwrap();
        }
    }
    let watch = spawn(|mut me: Process<u32>| async move {
        me.trap_exit(true);
        let farewell = Farewell(me.address());
        let child = me.spawn_link(|mut child: Process| async move {
            let _farewell = farewell;
            child.recv().await;
            Ok(())
        });
        child.pid().exit(Kill);
        assert_eq!(me.recv().await, Event::Message(7));
        assert_eq!(me.recv().await, Event::Exit(child.pid(), Killed));
        Ok(())
    });
    assert_eq!(watch.pid().ended().await, Normal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_after_unlink_has_no_effect() {
    let b = Actor::new();
    for _ in 0..500 {
        let a = Actor::new();
        a.links(&b).await;
        let pid = b.pid();
        a.order(move |me| {
            me.unlink(pid);
            Some(Err(boom()))
        });
        a.has_exited(boom()).await;
    }
    b.is_alive_with(&[]).await;
    assert_eq!(b.records(), 0);
}

#[tokio::test]
async fn a_message_before_a_kill_may_stay_unread() {
    let (a, b) = (Actor::new(), Actor::new());
    let to = b.clone();
    a.does(move |_| {
        to.0.try_send(Order::Say(1)).unwrap();
        to.pid().exit(Kill);
    })
    .await;
    b.has_exited(Killed).await;
}

#[tokio::test]
async fn a_message_to_a_dead_process_comes_back() {
    let b = Actor::new();
    b.ends(Ok(()));
    b.has_exited(Normal).await;
    let error = b.0.send(Order::Say(5)).await.unwrap_err();
    assert!(matches!(error.message, Order::Say(5)));
    assert_eq!(error.reason, NoProc);
    let error = b.0.try_send(Order::Say(6)).unwrap_err();
    assert!(matches!(error.message, Order::Say(6)));
}
