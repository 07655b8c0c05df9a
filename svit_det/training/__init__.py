"""What training needs beside a model, in torch only."""
