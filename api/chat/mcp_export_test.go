package chat

// Quoted and OutcomeStates are open to the tests.
var (
	Quoted        = quoted
	OutcomeStates = outcomeStates
)
