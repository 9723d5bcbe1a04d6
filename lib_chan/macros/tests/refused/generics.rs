use lib_chan_macros::protocol;

#[protocol]
trait Names<T>: Clone
where
    T: Clone,
{
    fn store<K>(key: K);
}

fn main() {}
