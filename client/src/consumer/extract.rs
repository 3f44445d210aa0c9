//! Handlers whose arguments are read from the message.

use std::future::Future;
use std::marker::PhantomData;

use super::handler::{Handler, IntoOutcome, Outcome};
use super::message::Delivery;
use crate::codec::DecodeBody;
use crate::error::HandlerError;

/// A type that an argument of a handler can have: see [`arguments`].
///
/// These are [`Delivery`], everything that implements [`DecodeBody`], such as [`Json<T>`](crate::Json), and a `Result` of one of
/// them, for handlers that also take what cannot be read.
pub trait FromDelivery: Sized {
    /// Reads the argument. If this fails, the handler is not called, and the error is its result.
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError>;
}

impl FromDelivery for Delivery {
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        Ok(delivery.clone())
    }
}

/// An error is permanent, because no redelivery makes the body valid.
impl<B: DecodeBody> FromDelivery for B {
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        B::decode_body(delivery.body()).map_err(HandlerError::permanent)
    }
}

impl<A: FromDelivery> FromDelivery for Result<A, HandlerError> {
    fn from_delivery(delivery: &Delivery) -> Result<Self, HandlerError> {
        Ok(A::from_delivery(delivery))
    }
}

/// Makes a handler of a function whose arguments, one to four, are read from the message.
///
/// A body that cannot be read is given up: it becomes a dead letter if there is a place for them. An argument of type
/// `Result<Json<T>, HandlerError>` leaves that to the function.
///
/// ```no_run
/// # fn example() -> Result<(), nsq::StartError> {
/// use nsq::{Delivery, Json};
///
/// let consumer = nsq::Consumer::builder("orders", "billing")
///     .nsqd("127.0.0.1:4150")
///     .handler(nsq::arguments(|Json((fruit, count)): Json<(String, u32)>, order: Delivery| async move {
///         println!("{fruit} {count}, attempt {}", order.attempts());
///     }))
///     .start()?;
/// # Ok(())
/// # }
/// ```
pub fn arguments<A, F: Call<A>>(function: F) -> WithArguments<F, A> {
    WithArguments { function, arguments: PhantomData }
}

/// A handler from [`arguments`].
pub struct WithArguments<F, A> {
    function: F,
    arguments: PhantomData<fn() -> A>,
}

impl<A: 'static, F: Call<A>> Handler for WithArguments<F, A> {
    type Output = Outcome;

    fn handle(&self, message: Delivery) -> impl Future<Output = Outcome> + Send {
        self.function.call(message)
    }
}

/// A function whose arguments implement [`FromDelivery`] and which returns a future of an [`IntoOutcome`].
#[diagnostic::on_unimplemented(
    message = "the arguments or the result of this function are not those of a handler",
    note = "write the types of the arguments, such as `|Json(order): Json<Order>| async move {{ .. }}`; each implements `nsq::FromDelivery`"
)]
pub trait Call<A>: sealed::Sealed<A> + Send + Sync + 'static {
    /// Reads the arguments and calls the function.
    #[doc(hidden)]
    fn call(&self, message: Delivery) -> impl Future<Output = Outcome> + Send;
}

mod sealed {
    pub trait Sealed<A> {}
}

macro_rules! call_with {
    ($($argument:ident)+) => {
        impl<F, Fut, $($argument),+> sealed::Sealed<($($argument,)+)> for F
        where
            F: Fn($($argument),+) -> Fut,
        {
        }

        impl<F, Fut, $($argument),+> Call<($($argument,)+)> for F
        where
            F: Fn($($argument),+) -> Fut + Send + Sync + 'static,
            Fut: Future + Send,
            Fut::Output: IntoOutcome + Send,
            $($argument: FromDelivery + Send,)+
        {
            async fn call(&self, message: Delivery) -> Outcome {
                let read = || Ok::<_, HandlerError>(self($($argument::from_delivery(&message)?),+));
                match read() {
                    Ok(handling) => handling.await.into_outcome(),
                    Err(error) => Outcome::Fail(error),
                }
            }
        }
    };
}

call_with!(A);
call_with!(A B);
call_with!(A B C);
call_with!(A B C D);

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;
    use crate::codec::{Envelope, Json, Text};
    use crate::test_util::FakeDelivery;

    #[tokio::test]
    async fn arguments_are_read_from_the_message() {
        let handler = arguments(|Json(count): Json<u32>, message: Delivery| async move {
            assert_eq!((count, message.attempts()), (3, 2));
        });
        let outcome = handler.handle(FakeDelivery::new("3").attempts(2).build()).await;
        assert_eq!(outcome, Outcome::Finish);
        let plain = arguments(|sealed: Envelope<Text>| async move { Err::<(), _>(sealed.body.0) });
        let outcome = plain.handle(FakeDelivery::new("no").build()).await;
        assert_eq!(outcome, Outcome::Fail("no".into()));
    }

    #[tokio::test]
    async fn unreadable_bodies_are_given_up_unless_the_handler_takes_them() {
        let handler = arguments(|Json(_): Json<u32>| async { Outcome::Finish });
        let Outcome::Fail(error) = handler.handle(FakeDelivery::new("x").build()).await else {
            panic!("it failed")
        };
        assert!(error.is_permanent(), "{error}");
        let tolerant = arguments(|count: Result<Json<u32>, HandlerError>, raw: bytes::Bytes| async move {
            assert!(count.is_err() && &raw[..] == b"x");
            Outcome::Forget
        });
        assert_eq!(tolerant.handle(FakeDelivery::new("x").build()).await, Outcome::Forget);
    }
}
