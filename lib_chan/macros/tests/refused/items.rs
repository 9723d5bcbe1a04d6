use lib_chan_macros::protocol;

#[protocol]
trait Names {
    const COUNT: usize;
    type Key;
    fn store(key: String) {}
    unsafe fn remove(key: String);
    #[serde(rename = "look")]
    async fn lookup(key: String);
}

fn main() {}
