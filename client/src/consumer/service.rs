//! Handlers as services of `tower`, and back.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tower_layer::Layer;
use tower_service::Service;

use super::handler::{Handler, IntoOutcome, Outcome};
use super::message::Delivery;
use crate::error::HandlerError;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes a handler of a service. Each message gets a clone of it, so limits must be shared by clones, as those of
/// `tower::limit::ConcurrencyLimit` are. An error of the service acts as an error of a handler.
///
/// ```
/// # use std::convert::Infallible;
/// # use std::task::{Context, Poll};
/// #[derive(Clone)]
/// struct Print;
///
/// impl tower_service::Service<nsq::Delivery> for Print {
///     type Response = ();
///     type Error = Infallible;
///     type Future = std::future::Ready<Result<(), Infallible>>;
///
///     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
///         Poll::Ready(Ok(()))
///     }
///
///     fn call(&mut self, order: nsq::Delivery) -> Self::Future {
///         println!("{:?}", order.body());
///         std::future::ready(Ok(()))
///     }
/// }
///
/// let builder = nsq::Consumer::builder("orders", "billing").nsqd("127.0.0.1:4150").handler(nsq::tower::service(Print));
/// ```
pub fn service<S>(service: S) -> FromService<S> {
    FromService { service: Mutex::new(service) }
}

/// A handler from [`service`].
pub struct FromService<S> {
    /// Few services are `Sync`.
    service: Mutex<S>,
}

impl<S> Handler for FromService<S>
where
    S: Service<Delivery> + Clone + Send + 'static,
    S::Response: IntoOutcome + Send,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    type Output = Outcome;

    async fn handle(&self, message: Delivery) -> Outcome {
        let service = self.service.lock().clone();
        run(service, message).await
    }
}

async fn run<S>(mut service: S, message: Delivery) -> Outcome
where
    S: Service<Delivery>,
    S::Response: IntoOutcome,
    S::Error: Into<BoxError>,
{
    let failed = |error: S::Error| match error.into().downcast::<Failed>() {
        Ok(failed) => Outcome::Fail(failed.0),
        Err(other) => Outcome::Fail(other.into()),
    };
    match poll_fn(|context| service.poll_ready(context)).await {
        Ok(()) => service.call(message).await.map_or_else(failed, IntoOutcome::into_outcome),
        Err(error) => failed(error),
    }
}

/// Puts a layer around a handler, for example `tower::timeout::TimeoutLayer`, or a stack of them from
/// `tower::ServiceBuilder`. [`Handler::gave_up`] stays that of the handler.
pub fn layered<H, L>(layer: &L, handler: H) -> Layered<H, L::Service>
where
    H: Handler,
    L: Layer<HandlerService<H>>,
{
    let handler = Arc::new(handler);
    let service = Mutex::new(layer.layer(HandlerService { handler: Arc::clone(&handler) }));
    Layered { handler, service }
}

/// A handler with layers around it: from [`layered`].
pub struct Layered<H, S> {
    handler: Arc<H>,
    service: Mutex<S>,
}

impl<H, S> Handler for Layered<H, S>
where
    H: Handler,
    S: Service<Delivery> + Clone + Send + 'static,
    S::Response: IntoOutcome + Send,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    type Output = Outcome;

    async fn handle(&self, message: Delivery) -> Outcome {
        let service = self.service.lock().clone();
        run(service, message).await
    }

    fn gave_up(&self, message: Delivery) -> impl Future<Output = Result<(), HandlerError>> + Send {
        self.handler.gave_up(message)
    }
}

/// A handler as a service, which layers wrap. Its error is that of the handler, so layers that retry see it; all other outcomes
/// are responses.
pub struct HandlerService<H> {
    handler: Arc<H>,
}

impl<H> Clone for HandlerService<H> {
    fn clone(&self) -> Self {
        HandlerService { handler: Arc::clone(&self.handler) }
    }
}

impl<H: Handler> Service<Delivery> for HandlerService<H> {
    type Response = Outcome;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, Failed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Delivery) -> Self::Future {
        let handler = Arc::clone(&self.handler);
        Box::pin(async move {
            match handler.handle(message).await.into_outcome() {
                Outcome::Fail(error) => Err(Failed(error)),
                outcome => Ok(outcome),
            }
        })
    }
}

/// The error of a handler, as layers see it.
#[derive(Clone)]
pub struct Failed(pub HandlerError);

impl From<Infallible> for Failed {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tower::ServiceBuilder;
    use tower::retry::Policy;
    use tower::timeout::TimeoutLayer;

    use super::*;
    use crate::test_util::FakeDelivery;

    #[tokio::test]
    async fn a_layer_ends_a_slow_handler() {
        let endless = |_: Delivery| std::future::pending::<()>();
        let handler = layered(&TimeoutLayer::new(Duration::from_millis(10)), endless);
        let Outcome::Fail(error) = handler.handle(FakeDelivery::new("x").build()).await else {
            panic!("it ended")
        };
        assert!(!error.is_permanent() && error.to_string().contains("timed out"), "{error}");
    }

    #[derive(Clone)]
    struct Twice;

    impl Policy<Delivery, Outcome, Failed> for Twice {
        type Future = std::future::Ready<()>;

        fn retry(&mut self, _: &mut Delivery, result: &mut Result<Outcome, Failed>) -> Option<Self::Future> {
            result.is_err().then(|| std::future::ready(()))
        }

        fn clone_request(&mut self, message: &Delivery) -> Option<Delivery> {
            Some(message.clone())
        }
    }

    #[tokio::test]
    async fn layers_see_errors_and_keep_that_they_are_permanent() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let flaky = move |_: Delivery| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            async move { if call == 0 { Err("the first call fails") } else { Ok(Outcome::Forget) } }
        };
        let handler = layered(&ServiceBuilder::new().retry(Twice).concurrency_limit(1).into_inner(), flaky);
        assert_eq!(handler.handle(FakeDelivery::new("x").build()).await, Outcome::Forget);
        assert_eq!(calls.load(Ordering::Relaxed), 2);

        let hopeless = |_: Delivery| async { Err::<(), _>(HandlerError::permanent("no such tenant")) };
        let handler = layered(&TimeoutLayer::new(Duration::from_secs(60)), hopeless);
        let Outcome::Fail(error) = handler.handle(FakeDelivery::new("x").build()).await else {
            panic!("it fails")
        };
        assert!(error.is_permanent());
    }
}
