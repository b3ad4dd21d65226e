//! Variables, loops and macros.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::compare;
use super::value::{Result, Value, error};

/// The variables of a block; those of outer blocks are visible.
pub(super) struct Scope {
    variables: RefCell<HashMap<Rc<str>, Value>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn new(parent: Option<&Rc<Scope>>) -> Rc<Scope> {
        Rc::new(Scope { variables: RefCell::default(), parent: parent.cloned() })
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.variables.borrow().get(name) {
                return Some(value.clone());
            }
            scope = scope.parent.as_ref()?;
        }
    }

    pub(super) fn set(&self, name: &str, value: Value) {
        self.variables.borrow_mut().insert(Rc::from(name), value);
    }

    /// Drops the variables. Macros refer to the scope that defines them, and it refers to them.
    pub(super) fn clear(&self) {
        let variables = self.variables.take();
        drop(variables);
    }
}

/// A macro, or the body of a `call` block.
pub(super) struct Macro {
    pub(super) name: Rc<str>,
    /// Index of its definition.
    pub(super) definition: usize,
    /// The scope of its definition.
    pub(super) scope: Rc<Scope>,
}

/// The variable `loop`.
pub(super) struct Loop {
    pub(super) items: Rc<[Value]>,
    pub(super) index0: Cell<usize>,
    pub(super) depth0: usize,
    changed: RefCell<Option<Vec<Value>>>,
    /// Index of the definition of a recursive loop, and the scope around it.
    pub(super) recursive: Option<(usize, Rc<Scope>)>,
}

impl Loop {
    pub(super) fn new(items: Rc<[Value]>, depth0: usize, recursive: Option<(usize, Rc<Scope>)>) -> Loop {
        Loop { items, index0: Cell::new(0), depth0, changed: RefCell::new(None), recursive }
    }

    pub(super) fn length(&self) -> usize {
        self.items.len()
    }

    /// The attribute with this name, unless it is a method.
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let (index0, length) = (self.index0.get(), self.length());
        let number = |value: usize| Value::Int(value as i128);
        Some(match name {
            "index" => number(index0 + 1),
            "index0" => number(index0),
            "revindex" => number(length - index0),
            "revindex0" => number(length - index0 - 1),
            "first" => Value::Bool(index0 == 0),
            "last" => Value::Bool(index0 + 1 == length),
            "length" => number(length),
            "depth" => number(self.depth0 + 1),
            "depth0" => number(self.depth0),
            "previtem" => match index0.checked_sub(1).and_then(|index| self.items.get(index)) {
                Some(item) => item.clone(),
                None => Value::undefined("there is no previous item"),
            },
            "nextitem" => match self.items.get(index0 + 1) {
                Some(item) => item.clone(),
                None => Value::undefined("there is no next item"),
            },
            _ => return None,
        })
    }

    /// `loop.cycle(…)`.
    pub(super) fn cycle(&self, items: &[Value]) -> Result<Value> {
        match items.len() {
            0 => error("no items for cycling given"),
            n => Ok(items[self.index0.get() % n].clone()),
        }
    }

    /// `loop.changed(…)`.
    pub(super) fn changed(&self, values: Vec<Value>) -> bool {
        let mut last = self.changed.borrow_mut();
        let is_same = last.as_ref().is_some_and(|last| compare::all_equal(last, &values));
        if !is_same {
            *last = Some(values);
        }
        !is_same
    }
}
