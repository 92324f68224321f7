//! Climbing a rung of the ladder: a check runs from the first state to the last state, or to a bound.

use std::{
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use stateright::{Checker as _, HasDiscoveries, Model};

use super::{
    cluster::Cluster,
    forming::{self, Formation},
    restoring::{self, Restoration},
    rollback::{self, Rollback},
    scenario::Scenario,
    sights::{Sight, Sights},
};

/// The result of a check.
pub struct Climbed {
    pub name: &'static str,
    /// Steps taken.
    pub states: usize,
    pub unique_states: usize,
    pub depth: usize,
    pub took: Duration,
    /// Whether every state was seen.
    pub is_complete: bool,
    /// A broken property, with the steps leading to the break.
    pub broken: Option<(&'static str, Vec<String>)>,
    /// Expected sights that never occurred.
    pub missing: Vec<Sight>,
}

/// The order of visiting states.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Needs little memory.
    DepthFirst,
    /// Finds a shortest counterexample.
    BreadthFirst,
}

/// A scenario to check, for one of the models.
#[derive(Clone)]
pub enum Case {
    Cluster(Scenario),
    Forming(forming::Scenario),
    Restoring(restoring::Scenario),
    Rollback(rollback::Scenario),
}

impl Case {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cluster(scenario) => scenario.name,
            Self::Forming(scenario) => scenario.name,
            Self::Restoring(scenario) => scenario.name,
            Self::Rollback(scenario) => scenario.name,
        }
    }
}

/// Checks a case until every state is seen, a property breaks, or `states_max` steps are taken.
pub fn climb(case: Case, order: Order, states_max: usize) -> Climbed {
    let name = case.name();
    let begun = Instant::now();
    let mut climbed = match case {
        Case::Cluster(scenario) => {
            let expected = scenario.expected;
            let cluster = Cluster::new(scenario);
            let sights = Arc::clone(&cluster.sights);
            explore(cluster, &sights, expected, order, states_max)
        }
        Case::Forming(scenario) => {
            let (expected, sights) = (scenario.expected, Arc::<Sights>::default());
            let formation = Formation {
                scenario,
                sights: Arc::clone(&sights),
            };
            explore(formation, &sights, expected, order, states_max)
        }
        Case::Restoring(scenario) => {
            let (expected, sights) = (scenario.expected, Arc::<Sights>::default());
            let restoration = Restoration {
                scenario,
                sights: Arc::clone(&sights),
            };
            explore(restoration, &sights, expected, order, states_max)
        }
        Case::Rollback(scenario) => {
            let (expected, sights) = (scenario.expected, Arc::<Sights>::default());
            let rollback = Rollback {
                scenario,
                sights: Arc::clone(&sights),
            };
            explore(rollback, &sights, expected, order, states_max)
        }
    };
    climbed.name = name;
    climbed.took = begun.elapsed();
    climbed
}

fn explore<M>(
    model: M,
    sights: &Sights,
    expected: &'static [Sight],
    order: Order,
    states_max: usize,
) -> Climbed
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + Send + Sync + Clone + PartialEq,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    // A single thread finds the same shortest counterexample each time.
    let threads = match order {
        Order::DepthFirst => std::thread::available_parallelism().map_or(1, usize::from),
        Order::BreadthFirst => 1,
    };
    let checker = model
        .checker()
        .threads(threads)
        .target_state_count(states_max)
        .finish_when(HasDiscoveries::AnyFailures);
    let mut climbed = match order {
        Order::DepthFirst => outcome(&checker.spawn_dfs().join()),
        Order::BreadthFirst => outcome(&checker.spawn_bfs().join()),
    };
    climbed.is_complete = climbed.states < states_max && climbed.broken.is_none();
    climbed.missing = expected.to_vec();
    climbed.missing.retain(|&sight| sights.count(sight) == 0);
    climbed
}

fn outcome<M>(checker: &impl stateright::Checker<M>) -> Climbed
where
    M: Model,
    M::State: Debug + Hash + Clone + PartialEq,
    M::Action: Debug + Clone + PartialEq,
{
    let mut broken: Vec<_> = checker
        .discoveries()
        .into_iter()
        .map(|(name, path)| {
            let steps = path.into_actions();
            (name, steps.iter().map(|step| format!("{step:?}")).collect())
        })
        .collect();
    Climbed {
        name: "",
        states: checker.state_count(),
        unique_states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: Duration::ZERO,
        is_complete: false,
        broken: broken.pop(),
        missing: Vec::new(),
    }
}

/// Heading for a table of checks.
pub const HEADING: &str =
    "model                                                    steps     states  depth     time  all?";

impl fmt::Display for Climbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            states,
            unique_states,
            depth,
            ..
        } = self;
        let took = self.took.as_secs_f64();
        let all = if self.is_complete { "all" } else { "part" };
        write!(
            f,
            "{name:50} {states:>11} {unique_states:>10} {depth:>6} {took:>7.1}s  {all}"
        )?;
        if !self.missing.is_empty() {
            write!(f, "  never seen: {:?}", self.missing)?;
        }
        if let Some((property, steps)) = &self.broken {
            write!(f, "\n  broken: {property}")?;
            for step in steps {
                write!(f, "\n    {step}")?;
            }
        }
        Ok(())
    }
}
