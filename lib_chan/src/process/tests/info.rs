//! What a process tells of itself.

use super::*;

#[tokio::test(start_paused = true)]
async fn info_counts_messages_waiting_and_taken() {
    let actor = Actor::new();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for word in 0..3 {
        actor.0.send(Order::Say(word)).await.unwrap();
    }
    let before = actor.pid().info().unwrap();
    assert_eq!((before.mailbox_len, before.messages_taken), (3, 0));
    assert_eq!(before.age, Duration::from_secs(3));
    actor.is_alive_with(&[Said(0), Said(1), Said(2)]).await;
    let after = actor.pid().info().unwrap();
    assert_eq!((after.mailbox_len, after.messages_taken), (0, 4));
}

#[tokio::test]
async fn info_lists_names_links_and_monitors() {
    let [one, two, three] = [Actor::trapping(), Actor::new(), Actor::new()];
    let names = Names::new();
    names.register("one", &one.0).unwrap();
    one.links(&two).await;
    one.monitors(&three).await;
    one.monitors(&three).await;
    let info = one.pid().info().unwrap();
    assert_eq!(info.names, ["one".into()]);
    assert!(info.trap_exit);
    assert_eq!(info.links, [two.pid()]);
    assert_eq!(info.monitors, [three.pid(), three.pid()]);
    assert_eq!(two.pid().info().unwrap().links, [one.pid()]);
    assert_eq!(three.pid().info().unwrap().monitored_by, [one.pid(), one.pid()]);

    assert!(names.unregister("one"));
    one.unlinks(&two).await;
    let info = one.pid().info().unwrap();
    assert!(info.names.is_empty() && info.links.is_empty());
}

#[tokio::test]
async fn process_that_ended_has_no_info() {
    assert!(dead().await.info().is_none());
    let (_recorder, far) = Recorder::new();
    assert!(far.info().is_none());
}
