"""Adversarial training as ART's examples do it, with MART in place of ART's trainer: two lines differ.

    python examples/art_drop_in.py

Each of the two is preceded by ART's own, as a comment: put that in its place, and the script is ART's alone. A small
network learns scikit-learn's handwritten digits; then ART's projected gradient descent attacks it, and the accuracies
are printed, overall and by digit. It takes less than a minute on a CPU.
"""

import argparse

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

# ART: from art.defences.trainer import AdversarialTrainerMadryPGD
from art_classwise import AdversarialTrainerMARTPyTorch

parser = argparse.ArgumentParser(description="Adversarial training on handwritten digits")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--examples", type=int, default=797, help="number of test examples")
arguments = parser.parse_args()

# Step 1: Load the data: 1,797 images of 8 x 8 pixels, which become 1 x 8 x 8, in [0, 1]
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
x_train, x_test, y_train, y_test = train_test_split(images, digits, train_size=1000, stratify=digits, random_state=0)
y_train = to_categorical(y_train, 10)
x_test, y_test = x_test[: arguments.examples], y_test[: arguments.examples]

# Step 2: Create the model
torch.manual_seed(0)
np.random.seed(0)  # noqa: NPY002 - ART draws from the global state
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(512, 64),
    nn.ReLU(),
    nn.Linear(64, 10),
)

# Step 3: Create the ART classifier
classifier = PyTorchClassifier(
    model=model,
    loss=nn.CrossEntropyLoss(),
    optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    input_shape=(1, 8, 8),
    nb_classes=10,
    clip_values=(0.0, 1.0),
)

# Step 4: Train the classifier adversarially
# ART: trainer = AdversarialTrainerMadryPGD(classifier, eps=0.1, eps_step=0.025, max_iter=10)
trainer = AdversarialTrainerMARTPyTorch(classifier, eps=0.1, eps_step=0.025, max_iter=10)
trainer.fit(x_train, y_train, batch_size=64, nb_epochs=arguments.epochs)

# Step 5: Evaluate the classifier on benign and on adversarial test examples
attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.025, max_iter=20, num_random_init=1, verbose=False)
x_adversarial = attack.generate(x_test, y_test)
benign = classifier.predict(x_test).argmax(1) == y_test
robust = classifier.predict(x_adversarial).argmax(1) == y_test
print(f"Accuracy on benign test examples: {benign.mean():.1%}")
print(f"Accuracy on adversarial test examples: {robust.mean():.1%}")
for digit in range(10):
    print(f"  {digit}: {robust[y_test == digit].mean():.1%}")
