//! The routes of a table by their path, so that finding one does not grow with their number.
//!
//! ```text
//! v1 ─► projects ─► * ─► secrets ─► **      a node for each segment; the routes that end there
//!    └► health                              in the order of the table
//! ```
//!
//! The first route of the table that matches decides, as if all were tried in their order: a
//! branch is left out when all of its routes stand behind the best one found. The property test
//! in `table` holds the two together.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::path::Path;
use super::template::{Part, PathTemplate, first_segment, has_verb};

/// Where a route stands in its table.
pub(super) type Place = u32;

/// Routes by path.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
}

#[derive(Debug)]
struct Node {
    /// The first of all routes here and below.
    first: Place,
    literals: HashMap<Box<str>, Node, RandomState>,
    any: Option<Box<Node>>,
    /// One segment that ends with a verb: the last of its template.
    verbs: Vec<(Box<str>, Node)>,
    /// Routes whose template ends here, without a slash and with one.
    ends: Vec<Place>,
    slashes: Vec<Place>,
    /// Routes whose `**` begins here.
    rests: Vec<Place>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            first: Place::MAX,
            literals: HashMap::default(),
            any: None,
            verbs: Vec::new(),
            ends: Vec::new(),
            slashes: Vec::new(),
            rests: Vec::new(),
        }
    }
}

impl Tree {
    /// Adds a route behind all that are there.
    pub(super) fn add(&mut self, place: Place, template: PathTemplate<'_>) {
        let mut node = &mut self.root;
        for part in template.parts() {
            node.first = node.first.min(place);
            node = match part {
                Part::Rest { .. } => return node.rests.push(place),
                Part::Slash => return node.slashes.push(place),
                Part::Literal(text) => node.literals.entry(text.into()).or_default(),
                Part::One { verb: "", .. } => node.any.get_or_insert_default(),
                Part::One { verb, .. } => node.verb(verb),
            };
        }
        node.first = node.first.min(place);
        node.ends.push(place);
    }

    /// The first route that matches the path and is accepted.
    pub(super) fn find(&self, path: &Path<'_>, accept: impl Fn(Place) -> bool) -> Option<Place> {
        let mut best = Best {
            place: None,
            accept,
        };
        self.root.find(Some(path.text()), &mut best);
        best.place
    }

    /// The first route that is accepted and matches every path that `template` matches.
    pub(super) fn covering(
        &self,
        template: PathTemplate<'_>,
        accept: impl Fn(Place) -> bool,
    ) -> Option<Place> {
        let mut best = Best {
            place: None,
            accept,
        };
        self.root.covering(template.parts(), &mut best);
        best.place
    }
}

/// The best route so far.
struct Best<F> {
    place: Option<Place>,
    accept: F,
}

impl<F: Fn(Place) -> bool> Best<F> {
    /// Takes the first of the routes that is accepted, if it stands before the best.
    fn take(&mut self, places: &[Place]) {
        let limit = self.limit();
        let sooner = places.iter().take_while(|place| **place < limit);
        if let Some(place) = sooner.into_iter().find(|place| (self.accept)(**place)) {
            self.place = Some(*place);
        }
    }

    fn limit(&self) -> Place {
        self.place.unwrap_or(Place::MAX)
    }
}

impl Node {
    fn verb(&mut self, verb: &str) -> &mut Self {
        let at = match self.verbs.iter().position(|(known, _)| **known == *verb) {
            Some(at) => at,
            None => {
                self.verbs.push((verb.into(), Self::default()));
                self.verbs.len() - 1
            }
        };
        &mut self.verbs[at].1
    }

    // As deep as the templates are, which is `PARTS_MAX` at the most.
    fn find<F: Fn(Place) -> bool>(&self, rest: Option<&str>, best: &mut Best<F>) {
        if self.first >= best.limit() {
            return;
        }
        best.take(&self.rests);
        let Some(rest) = rest else {
            return best.take(&self.ends);
        };
        let (segment, after) = first_segment(rest);
        if segment.is_empty() {
            return best.take(&self.slashes);
        }
        if let Some(node) = self.literals.get(segment) {
            node.find(after, best);
        }
        if let Some(node) = &self.any {
            node.find(after, best);
        }
        for (verb, node) in &self.verbs {
            if has_verb(segment, verb) {
                node.find(after, best);
            }
        }
    }

    fn covering<'t, F: Fn(Place) -> bool>(
        &self,
        mut parts: impl Iterator<Item = Part<'t>> + Clone,
        best: &mut Best<F>,
    ) {
        if self.first >= best.limit() {
            return;
        }
        best.take(&self.rests);
        let one = match parts.next() {
            None => return best.take(&self.ends),
            Some(Part::Slash) => return best.take(&self.slashes),
            Some(Part::Rest { .. }) => return,
            Some(one) => one,
        };
        if let Part::Literal(text) = one
            && let Some(node) = self.literals.get(text)
        {
            node.covering(parts.clone(), best);
        }
        if let Some(node) = &self.any {
            node.covering(parts.clone(), best);
        }
        for (verb, node) in &self.verbs {
            let covered = match one {
                Part::One { verb: other, .. } => other == &**verb,
                Part::Literal(text) => has_verb(text, verb),
                Part::Rest { .. } | Part::Slash => false,
            };
            if covered {
                node.covering(parts.clone(), best);
            }
        }
    }
}
