-- What an agent spent in a day is looked up at each due time of an agent that has a budget.

CREATE INDEX runs_of_day ON runs (agent, created_at);
