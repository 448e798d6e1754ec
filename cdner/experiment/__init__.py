"""An experiment as a plan of steps: building, checking, forecasting and executing it."""
