use lib_chan_macros::protocol;

#[protocol]
trait Names {
    fn store(&self, key: String);
    fn borrowed(key: &str, bytes: &[u8]);
    async fn answer_borrowed() -> &str;
    fn pattern((a, b): (u8, u8));
    fn mutable(mut key: String);
    fn answered(reply: u8);
    fn many(values: impl Iterator<Item = u8>);
}

fn main() {}
