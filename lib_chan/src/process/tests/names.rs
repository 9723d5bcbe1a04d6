//! Names: registration, lookup, and monitors by name.

use super::*;

async fn named() -> (Names<Order>, Actor) {
    let (names, a) = (Names::new(), Actor::new());
    names.register("a", &a.0).unwrap();
    (names, a)
}

#[tokio::test]
async fn a_process_is_monitored_by_its_name() {
    let (names, b) = named().await;
    let a = Actor::new();
    let found = names.whereis("a").unwrap().pid();
    let r = a.does(move |me| me.monitor(found)).await;
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[Down(r, b.pid(), boom())]).await;
}

#[tokio::test]
async fn a_name_that_nobody_has_gives_no_process() {
    // So there is nothing to monitor, to send to or to call: whoever looks the name up has to say what then.
    let (names, _a) = named().await;
    assert!(names.whereis("nobody").is_none());
}

#[tokio::test]
async fn monitor_stays_when_name_moves() {
    let (names, b) = named().await;
    let (a, c) = (Actor::new(), Actor::new());
    let found = names.whereis("a").unwrap().pid();
    let r = a.does(move |me| me.monitor(found)).await;
    assert!(names.unregister("a"));
    names.register("a", &c.0).unwrap();
    c.ends(Err(Shutdown));
    c.has_exited(Shutdown).await;
    a.is_alive_with(&[]).await;
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[Down(r, b.pid(), boom())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_is_free_when_the_down_comes() {
    let watch = spawn(|mut me: Process| async move {
        let names = Names::new();
        for _ in 0..500 {
            let (child, _) = me.spawn_monitor(|mut me: Process| async move {
                me.recv().await;
                Err(boom())
            });
            names.register("child", &child).unwrap();
            child.send(()).await?;
            me.recv().await;
            assert!(names.whereis("child").is_none());
        }
        Ok(())
    });
    assert_eq!(watch.pid().ended().await, Normal);
}

#[tokio::test]
async fn a_name_goes_with_its_process() {
    let (names, a) = named().await;
    assert_eq!(names.whereis("a").unwrap().pid(), a.pid());
    a.pid().exit(Kill);
    assert!(names.whereis("a").is_none());
}

#[tokio::test]
async fn a_name_is_refused() {
    let (names, a) = named().await;
    assert_eq!(names.register("a", &Actor::new().0), Err(NameError::Taken));
    assert_eq!(names.register("b", &a.0), Err(NameError::AlreadyNamed));
    let dead = Actor::new();
    dead.ends(Ok(()));
    dead.has_exited(Normal).await;
    assert_eq!(names.register("c", &dead.0), Err(NameError::NoProc));
    assert!(names.whereis("c").is_none());
    // `undefined` is a name as any other here.
    names.register("undefined", &Actor::new().0).unwrap();
}

#[tokio::test]
async fn a_name_taken_away_is_no_end() {
    let (names, b) = named().await;
    let a = Actor::new();
    let found = names.whereis("a").unwrap().pid();
    a.does(move |me| me.monitor(found)).await;
    assert!(names.unregister("a"));
    assert!(!names.unregister("a"));
    a.is_alive_with(&[]).await;
    b.is_alive_with(&[]).await;
    // And the end of the process takes away nothing that another has got since.
    names.register("a", &a.0).unwrap();
    b.pid().exit(Kill);
    assert_eq!(names.whereis("a").unwrap().pid(), a.pid());
}

#[tokio::test]
async fn taken_name_leaves_nothing_behind() {
    let (names, a) = named().await;
    for _ in 0..10 {
        assert!(names.unregister("a"));
        names.register("a", &a.0).unwrap();
    }
    assert_eq!(a.0.here().belongings(), 1);
}
